use super::Case;

pub(super) const HTTP_RULES: &[Case] = &[
    (
        "matches: [{path: {value: user}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "user" doesn't begin with a slash; write "/user""#,
        ],
    ),
    (
        "matches: [{path: {value: /a//b}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not contain "//"; write the path as it reads once it is normalised"#,
        ],
    ),
    (
        "matches: [{path: {value: /a/./b}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not contain "/./"; write the path as it reads once it is normalised"#,
        ],
    ),
    (
        "matches: [{path: {value: /a/../b}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not contain "/../"; write the path as it reads once it is normalised"#,
        ],
    ),
    (
        "matches: [{path: {value: /a%2Fb}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not contain "%2f"; write the path as it reads once it is normalised"#,
        ],
    ),
    (
        r#"matches: [{path: {value: "/a#b"}}]"#,
        &[
            r##"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not contain "#"; write the path as it reads once it is normalised"##,
        ],
    ),
    (
        "matches: [{path: {value: /a/..}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: must not end with "/." or "/.."; write the path as it reads once it is normalised"#,
        ],
    ),
    (
        "matches: [{path: {value: /a b}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "/a b" has characters that no path has; write other characters percent-encoded: %20 for a space"#,
        ],
    ),
    (
        "matches: [{path: {value: /a%2}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "/a%2" has characters that no path has; write other characters percent-encoded: %20 for a space"#,
        ],
    ),
    (
        "matches: [{path: {type: Prefix, value: /a}}]",
        &[
            r#"7:23: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.type: "Prefix" is none of Exact, PathPrefix or RegularExpression; write one of them"#,
        ],
    ),
    (
        r#"matches: [{path: {type: RegularExpression, value: "/a("}}]"#,
        &[
            r#"7:48: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "/a(" is no regular expression that can be used: unclosed group; write it in RE2's syntax: no look-around, no back-references"#,
        ],
    ),
    (
        r#"matches: [{path: {type: RegularExpression, value: "/a(?=b)"}}]"#,
        &[
            r#"7:48: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "/a(?=b)" is no regular expression that can be used: look-around, including look-ahead and look-behind, is not supported; write it in RE2's syntax: no look-around, no back-references"#,
        ],
    ),
    (
        r#"matches: [{path: {type: RegularExpression, value: "/(a{1000}){1000}"}}]"#,
        &[
            r#"7:48: error: HTTPRoute shop/r: spec.rules[0].matches[0].path.value: "/(a{1000}){1000}" is no regular expression that can be used: Compiled regex exceeds size limit of 1048576 bytes.; write it in RE2's syntax: no look-around, no back-references"#,
        ],
    ),
    (
        "matches: [{method: get}]",
        &[
            r#"7:16: error: HTTPRoute shop/r: spec.rules[0].matches[0].method: "get" is none of GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE or PATCH; did you mean GET?"#,
        ],
    ),
    (
        r#"matches: [{headers: [{name: "a b", value: x}]}]"#,
        &[
            r#"7:27: error: HTTPRoute shop/r: spec.rules[0].matches[0].headers[0].name: "a b" must be 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~; respell it"#,
        ],
    ),
    (
        r#"matches: [{headers: [{name: x, value: ""}]}]"#,
        &[
            "7:36: error: HTTPRoute shop/r: spec.rules[0].matches[0].headers[0].value: must not be empty; fill it in",
        ],
    ),
    (
        "matches: [{headers: [{name: x, value: a}, {name: X, value: b}]}]",
        &[
            "7:48: error: HTTPRoute shop/r: spec.rules[0].matches[0].headers[1].name: x stands in spec.rules[0].matches[0].headers[0] already; let them differ",
        ],
    ),
    (
        r#"matches: [{headers: [{name: x, type: RegularExpression, value: "["}]}]"#,
        &[
            r#"7:61: error: HTTPRoute shop/r: spec.rules[0].matches[0].headers[0].value: "[" is no regular expression that can be used: unclosed character class; write it in RE2's syntax: no look-around, no back-references"#,
        ],
    ),
    (
        "matches: [{queryParams: [{name: x, value: a}, {name: x, value: b}]}]",
        &[
            "7:52: error: HTTPRoute shop/r: spec.rules[0].matches[0].queryParams[1].name: x stands in spec.rules[0].matches[0].queryParams[0] already; let them differ",
        ],
    ),
    (
        "matches: [{header: [{name: x, value: a}]}]",
        &[
            "7:16: error: HTTPRoute shop/r: spec.rules[0].matches[0].header: is no field that exists here; did you mean headers?",
        ],
    ),
    (
        "filters: [{type: RequestHeaderModifier}]",
        &[
            "7:15: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestHeaderModifier: is missing; a filter of type RequestHeaderModifier says there what to do",
        ],
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {}, urlRewrite: {hostname: a.example}}]",
        &[
            "7:72: error: HTTPRoute shop/r: spec.rules[0].filters[0].urlRewrite: doesn't belong to a filter of type RequestHeaderModifier; remove it, or write type: URLRewrite",
        ],
    ),
    (
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: a}, {name: X, value: b}]}}]",
        &[
            "7:97: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestHeaderModifier.set[1].name: x stands in spec.rules[0].filters[0].requestHeaderModifier.set[0] already; let them differ",
        ],
    ),
    (
        r#"filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: "x:", value: "a\nb"}]}}]"#,
        &[
            r#"7:76: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestHeaderModifier.add[0].name: "x:" must be 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~; respell it"#,
            "7:88: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestHeaderModifier.add[0].value: a header's value can't hold line breaks or other control characters; write it on one line",
        ],
    ),
    (
        "filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [x, X]}}]",
        &[
            "7:83: error: HTTPRoute shop/r: spec.rules[0].filters[0].responseHeaderModifier.remove[1]: x stands in spec.rules[0].filters[0].responseHeaderModifier.remove[0] already; let them differ",
        ],
    ),
    (
        r"filters:
- {type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}
- {type: RequestHeaderModifier, requestHeaderModifier: {remove: [b]}}",
        &[
            "9:8: error: HTTPRoute shop/r: spec.rules[0].filters[1].type: RequestHeaderModifier stands in spec.rules[0].filters[0] already; let them differ",
        ],
    ),
    (
        r"filters:
- {type: RequestRedirect, requestRedirect: {port: 81}}
- {type: URLRewrite, urlRewrite: {hostname: a.example}}",
        &[
            "9:7: error: HTTPRoute shop/r: spec.rules[0].filters[1]: a request can't be both redirected and rewritten; say in the redirect where to, or remove it",
        ],
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {scheme: ftp}}]",
        &[
            r#"7:57: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestRedirect.scheme: "ftp" is none of http or https; write one of them"#,
        ],
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {statusCode: 304}}]",
        &[
            "7:57: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestRedirect.statusCode: 304 is no status of a redirect; write 301, 302, 303, 307 or 308",
        ],
    ),
    (
        r#"filters: [{type: RequestRedirect, requestRedirect: {hostname: "*.example"}}]"#,
        &[
            r#"7:57: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestRedirect.hostname: "*.example" must be a DNS name in lower case, without a wildcard, and no IP address; respell it"#,
        ],
    ),
    (
        "filters: [{type: RequestRedirect, requestRedirect: {port: 0}}]",
        &[
            "7:57: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestRedirect.port: 0 is no port; write a number from 1 to 65535",
        ],
    ),
    (
        r"filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]
backendRefs: [{name: user, port: 80}]",
        &[
            "8:5: error: HTTPRoute shop/r: spec.rules[0].backendRefs: a rule that redirects sends nothing to backends; remove the backends, or the filter of type RequestRedirect",
        ],
    ),
    (
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replaceFullPath: /x}}}]",
        &[
            "7:47: error: HTTPRoute shop/r: spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: is missing; write the new path there",
            "7:80: error: HTTPRoute shop/r: spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: doesn't belong to type ReplacePrefixMatch; remove it, or write type: ReplaceFullPath",
        ],
    ),
    (
        r"matches: [{path: {type: Exact, value: /a}}]
filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]",
        &[
            "8:54: error: HTTPRoute shop/r: spec.rules[0].filters[0].urlRewrite.path.type: there is no one prefix to replace: the rule must have exactly one match, of type PathPrefix; give each prefix a rule of its own, or use ReplaceFullPath",
        ],
    ),
    (
        r"matches: [{path: {value: /a}}, {path: {value: /b}}]
filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]",
        &[
            "8:64: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestRedirect.path.type: there is no one prefix to replace: the rule must have exactly one match, of type PathPrefix; give each prefix a rule of its own, or use ReplaceFullPath",
        ],
    ),
    (
        r"matches: [{path: {type: Exact, value: /a}}]
backendRefs: [{name: user, port: 80, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}]}]",
        &[
            "8:91: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].filters[0].urlRewrite.path.type: there is no one prefix to replace: the rule must have exactly one match, of type PathPrefix; give each prefix a rule of its own, or use ReplaceFullPath",
        ],
    ),
    (
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: user}, percent: 101, fraction: {numerator: 5, denominator: 0}}}]",
        &[
            "7:16: warning: HTTPRoute shop/r: spec.rules[0].filters[0].type: the mesh can't honour filters of type RequestMirror; requests that match get 500; remove the filter",
            "7:53: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestMirror.backendRef.port: is missing; a Service is referred to with one of its ports",
            "7:79: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestMirror.percent: 101 is no percentage; write a number from 0 to 100",
            "7:93: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestMirror.fraction: percent says the share already; keep one of the two",
            "7:93: error: HTTPRoute shop/r: spec.rules[0].filters[0].requestMirror.fraction: is no share; write a denominator of at least 1 and a numerator up to it",
        ],
    ),
    (
        "filters: [{type: ExtensionRef, extensionRef: {group: a.example, kind: Thing, name: x}}]",
        &[
            "7:16: warning: HTTPRoute shop/r: spec.rules[0].filters[0].type: the mesh can't honour filters of type ExtensionRef; requests that match get 500; remove the filter",
        ],
    ),
    (
        "filters: [{type: CORS, cors: {}}]",
        &[
            "7:16: warning: HTTPRoute shop/r: spec.rules[0].filters[0].type: the mesh can't honour filters of type CORS; requests that match get 500; remove the filter",
        ],
    ),
    (
        "filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: x, port: 80}}}]",
        &[
            "7:16: error: HTTPRoute shop/r: spec.rules[0].filters[0].type: is not in the Gateway API's standard channel; remove it",
        ],
    ),
    (
        "filters: [{type: UrlRewrite, urlRewrite: {hostname: a.example}}]",
        &[
            r#"7:16: error: HTTPRoute shop/r: spec.rules[0].filters[0].type: "UrlRewrite" is none of RequestHeaderModifier, ResponseHeaderModifier, RequestMirror, RequestRedirect, URLRewrite, ExtensionRef, CORS or ExternalAuth; did you mean URLRewrite?"#,
        ],
    ),
    (
        "backendRefs: [{name: user}]",
        &[
            "7:19: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].port: is missing; a Service is referred to with one of its ports",
        ],
    ),
    (
        "backendRefs: [{name: user, port: 70000}]",
        &[
            "7:32: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].port: 70000 is no port; write a number from 1 to 65535",
        ],
    ),
    (
        "backendRefs: [{name: user, port: 80, weight: -1}, {name: user, port: 80, weight: 1000001}]",
        &[
            "7:42: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].weight: -1 is no weight; write a number from 0 to 1000000; shares are relative to each other",
            "7:78: error: HTTPRoute shop/r: spec.rules[0].backendRefs[1].weight: 1000001 is no weight; write a number from 0 to 1000000; shares are relative to each other",
        ],
    ),
    (
        r#"backendRefs: [{name: user, port: "80"}]"#,
        &[
            "7:32: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].port: must be a whole number, but is text; take it out of its quotes",
        ],
    ),
    (
        "backendRefs: [{name: User_1, namespace: Shop, port: 80}]",
        &[
            r#"7:20: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].name: "User_1" must be 1 to 253 lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit; respell it"#,
            r#"7:34: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].namespace: "Shop" must be 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit; respell it"#,
        ],
    ),
    (
        "backendRefs: [{group: a.example, kind: Thing, name: user, port: 80}]",
        &[
            "7:38: warning: HTTPRoute shop/r: spec.rules[0].backendRefs[0].kind: the mesh can't send requests to a Thing; its share of the requests gets 500; name a Service",
        ],
    ),
    (
        r#"backendRefs: [{kind: "1x", name: user, port: 80}]"#,
        &[
            r#"7:20: error: HTTPRoute shop/r: spec.rules[0].backendRefs[0].kind: "1x" is no kind; write the kind as manifests do: Service"#,
            "7:20: warning: HTTPRoute shop/r: spec.rules[0].backendRefs[0].kind: the mesh can't send requests to a 1x; its share of the requests gets 500; name a Service",
        ],
    ),
    (
        "timeouts: {request: 1s, backendRequest: 2s}",
        &[
            "7:29: error: HTTPRoute shop/r: spec.rules[0].timeouts.backendRequest: one attempt may take 2s, but the whole request only 1s; make it at most as long as request",
        ],
    ),
    (
        "timeouts: {request: 10 s}",
        &[
            r#"7:16: error: HTTPRoute shop/r: spec.rules[0].timeouts.request: "10 s" is no duration; write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m"#,
        ],
    ),
    (
        "timeouts: {request: 1.5s, backendRequest: -1s}",
        &[
            r#"7:16: error: HTTPRoute shop/r: spec.rules[0].timeouts.request: "1.5s" is no duration; write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m"#,
            r#"7:31: error: HTTPRoute shop/r: spec.rules[0].timeouts.backendRequest: "-1s" is no duration; write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m"#,
        ],
    ),
    (
        "timeout: {request: 1s}",
        &[
            "7:5: error: HTTPRoute shop/r: spec.rules[0].timeout: is no field that exists here; did you mean timeouts?",
        ],
    ),
    (
        "retry: {codes: [200], attempts: -1, backoff: x}",
        &[
            "7:21: error: HTTPRoute shop/r: spec.rules[0].retry.codes[0]: 200 is no status of a failure; write numbers from 400 to 599",
            "7:27: error: HTTPRoute shop/r: spec.rules[0].retry.attempts: -1 is no number of retries; write a small number; 0 switches retries off",
            r#"7:41: error: HTTPRoute shop/r: spec.rules[0].retry.backoff: "x" is no duration; write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m"#,
        ],
    ),
    (
        "sessionPersistence: {type: Cookie}",
        &[
            "7:5: error: HTTPRoute shop/r: spec.rules[0].sessionPersistence: is not in the Gateway API's standard channel; remove it",
        ],
    ),
    (
        "name: Not_A_Name",
        &[
            r#"7:5: error: HTTPRoute shop/r: spec.rules[0].name: "Not_A_Name" must be 1 to 253 lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit; respell it"#,
        ],
    ),
];

pub(super) const HTTP_SPEC: &[Case] = &[
    (
        "rules: [{backendRefs: [{name: user, port: 80}]}]",
        &[
            "4:1: warning: HTTPRoute shop/r: spec.parentRefs: a route without parents is attached to nothing; name the Service whose callers it is for",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user}]
hostnames: [user.example, 10.0.0.1]"#,
        &[
            "6:3: warning: HTTPRoute shop/r: spec.hostnames: hostnames have no effect on a route whose parent is a Service; remove them; the Service's own names are what the route serves",
            r#"6:29: error: HTTPRoute shop/r: spec.hostnames[1]: "10.0.0.1" must be a DNS name in lower case, perhaps with *. in front, and no IP address; respell it"#,
        ],
    ),
    (
        "parentRefs: [{name: gateway}]",
        &[
            r#"5:16: warning: HTTPRoute shop/r: spec.parentRefs[0]: a parent of kind Gateway is not the mesh's to serve; for the mesh, write group: "" and kind: Service"#,
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user}, {group: "", kind: Service, name: user}]"#,
        &[
            "5:16: error: HTTPRoute shop/r: spec.parentRefs[0]: the parent is named several times, and this reference doesn't say which part it means; add sectionName or port, or keep only this reference",
            "5:56: error: HTTPRoute shop/r: spec.parentRefs[1]: the same parent, with the same section and port, is named twice; keep one of the two",
            "5:56: error: HTTPRoute shop/r: spec.parentRefs[1]: the parent is named several times, and this reference doesn't say which part it means; add sectionName or port, or keep only this reference",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user, port: 80}, {group: "", kind: Service, name: user, port: 81}]"#,
        &[
            "5:66: error: HTTPRoute shop/r: spec.parentRefs[1]: the same parent is named twice with different ports, which the Gateway API's standard channel doesn't tell apart; name each port by sectionName",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user, port: 80}, {group: "", kind: Service, name: user}]"#,
        &[
            "5:66: error: HTTPRoute shop/r: spec.parentRefs[1]: the parent is named several times, and this reference doesn't say which part it means; add sectionName or port, or keep only this reference",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user}]
rules: []"#,
        &[
            "6:3: error: HTTPRoute shop/r: spec.rules: an empty list of rules matches nothing; add a rule, or leave the field out",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user}]
rules: [{name: a}, {name: a}]"#,
        &[
            "6:23: error: HTTPRoute shop/r: spec.rules[1].name: a stands in spec.rules[0] already; let them differ",
        ],
    ),
    (
        r#"parentRefs: [{group: "", kind: Service, name: user}]
useDefaultGateways: All"#,
        &[
            "6:3: error: HTTPRoute shop/r: spec.useDefaultGateways: is not in the Gateway API's standard channel; remove it",
        ],
    ),
    (
        r#"parentRefs: {group: "", kind: Service, name: user}"#,
        &[
            "5:3: error: HTTPRoute shop/r: spec.parentRefs: must be a list, but is a mapping; write a list: each item on a line of its own, with a dash",
        ],
    ),
];
