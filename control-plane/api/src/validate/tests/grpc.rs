use super::Case;

pub(super) const GRPC_RULES: &[Case] = &[
    (
        "matches: [{method: {type: Exact}}]",
        &[
            "7:16: error: GRPCRoute shop/r: spec.rules[0].matches[0].method: names neither a service nor a method; add one of the two, or leave the field out",
        ],
    ),
    (
        r#"matches: [{method: {service: "shop..Inventory", method: "Re-serve"}}]"#,
        &[
            r#"7:25: error: GRPCRoute shop/r: spec.rules[0].matches[0].method.service: "shop..Inventory" is no service of gRPC; write it as the .proto file does: shop.v1.Inventory"#,
            r#"7:53: error: GRPCRoute shop/r: spec.rules[0].matches[0].method.method: "Re-serve" is no method of gRPC; write it as the .proto file does: Reserve"#,
        ],
    ),
    (
        r#"matches: [{method: {type: RegularExpression, service: "("}}]"#,
        &[
            r#"7:50: error: GRPCRoute shop/r: spec.rules[0].matches[0].method.service: "(" is no regular expression that can be used: unclosed group; write it in RE2's syntax: no look-around, no back-references"#,
        ],
    ),
    (
        r#"matches: [{headers: [{name: "", value: x}]}]"#,
        &[
            r#"7:27: error: GRPCRoute shop/r: spec.rules[0].matches[0].headers[0].name: "" must be 1 to 256 letters, digits or any of !#$%&'*+-.^_`|~; respell it"#,
        ],
    ),
    (
        "filters: [{type: RequestRedirect}]",
        &[
            "7:15: error: GRPCRoute shop/r: spec.rules[0].filters[0].requestRedirect: is missing; a filter of type RequestRedirect says there what to do",
            r#"7:16: error: GRPCRoute shop/r: spec.rules[0].filters[0].type: "RequestRedirect" is none of ResponseHeaderModifier, RequestHeaderModifier, RequestMirror or ExtensionRef; write one of them"#,
        ],
    ),
    (
        "backendRefs: [{name: inventory}]",
        &[
            "7:19: error: GRPCRoute shop/r: spec.rules[0].backendRefs[0].port: is missing; a Service is referred to with one of its ports",
        ],
    ),
    (
        "timeouts: {request: 1s}",
        &[
            "7:5: error: GRPCRoute shop/r: spec.rules[0].timeouts: is no field that exists here; remove it, or write backendRefs, filters, matches or name",
        ],
    ),
];
