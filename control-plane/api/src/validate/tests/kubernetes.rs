use super::Case;

pub(super) const SERVICES: &[Case] = &[
    (
        "ports: []",
        &["5:3: error: Service shop/user: spec.ports: a Service needs at least one port; add a port"],
    ),
    (
        "ports: [{port: 80}, {port: 81}]",
        &[
            "5:11: error: Service shop/user: spec.ports[0].name: is missing; name each port when there is more than one",
            "5:23: error: Service shop/user: spec.ports[1].name: is missing; name each port when there is more than one",
        ],
    ),
    (
        "ports: [{name: http, port: 80}, {name: http, port: 81}]",
        &[
            "5:36: error: Service shop/user: spec.ports[1].name: http stands in spec.ports[0] already; let them differ",
        ],
    ),
    (
        "ports: [{name: a, port: 80}, {name: b, port: 80}]",
        &[
            "5:42: error: Service shop/user: spec.ports[1].port: 80 TCP stands in spec.ports[0] already; let them differ",
        ],
    ),
    (
        "ports: [{name: http_1, port: 0}]",
        &[
            r#"5:12: error: Service shop/user: spec.ports[0].name: "http_1" must be 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit; respell it"#,
            "5:26: error: Service shop/user: spec.ports[0].port: 0 is no port; write a number from 1 to 65535",
        ],
    ),
    (
        "ports: [{port: 80, targetPort: 0}]",
        &[
            "5:22: error: Service shop/user: spec.ports[0].targetPort: 0 is no port; write a number from 1 to 65535",
        ],
    ),
    (
        "ports: [{port: 80, targetPort: web--1}]",
        &[
            r#"5:22: error: Service shop/user: spec.ports[0].targetPort: "web--1" must be 1 to 15 lower-case letters, digits and single dashes, with at least one letter; respell it"#,
        ],
    ),
    (
        "ports: [{port: 80, targetPort: 1.5}]",
        &[
            "5:22: error: Service shop/user: spec.ports[0].targetPort: must be a whole number or text, but is a number with a fraction",
        ],
    ),
    (
        "ports: [{port: 53, protocol: UDP}]",
        &[
            "5:22: warning: Service shop/user: spec.ports[0].protocol: the mesh carries TCP only; callers reach this port past the mesh",
        ],
    ),
    (
        "ports: [{port: 80, protocol: tcp}]",
        &[
            r#"5:22: error: Service shop/user: spec.ports[0].protocol: "tcp" is none of TCP, UDP or SCTP; did you mean TCP?"#,
        ],
    ),
    (
        r"ports: [{port: 80}]
clusterIP: nowhere",
        &[
            r#"6:3: error: Service shop/user: spec.clusterIP: "nowhere" is no IP address; write an address, or None"#,
        ],
    ),
    (
        r"ports: [{port: 80}]
trafficDistribution: PreferZone",
        &[
            r#"6:3: error: Service shop/user: spec.trafficDistribution: "PreferZone" is none of PreferSameZone, PreferSameNode or PreferClose; did you mean PreferClose?"#,
        ],
    ),
    (
        r"ports: [{port: 80}]
type: Clusterip",
        &[
            r#"6:3: error: Service shop/user: spec.type: "Clusterip" is none of ClusterIP, NodePort, LoadBalancer or ExternalName; did you mean ClusterIP?"#,
        ],
    ),
    (
        r"type: ExternalName
externalName: a.example",
        &[
            "5:3: warning: Service shop/user: spec.type: the mesh doesn't serve ExternalName; callers reach it past the mesh",
        ],
    ),
    (
        "ports: [{port: 80, appprotocol: grpc}]",
        &[
            "5:22: error: Service shop/user: spec.ports[0].appprotocol: is no field that exists here; did you mean appProtocol?",
        ],
    ),
    (
        r"ports: [{port: 80}]
selector: {version: 2}",
        &[
            r#"6:14: error: Service shop/user: spec.selector.version: must be text, but is a number; put it in quotes: "2""#,
        ],
    ),
];

pub(super) const ENDPOINT_SLICES: &[Case] = &[
    (
        "endpoints: []",
        &[
            "1:1: error: EndpointSlice default/user-1: addressType: is missing; add it: addressType specifies the type of address carried by this EndpointSlice",
        ],
    ),
    (
        r"addressType: ipv4
endpoints: []",
        &[
            r#"4:1: error: EndpointSlice default/user-1: addressType: "ipv4" is none of IPv4, IPv6 or FQDN; did you mean IPv4?"#,
        ],
    ),
    (
        r"addressType: IPv4
endpoints: [{addresses: []}]",
        &[
            "5:14: error: EndpointSlice default/user-1: endpoints[0].addresses: an endpoint needs an address; add one",
        ],
    ),
    (
        r#"addressType: IPv4
endpoints: [{addresses: ["::1"]}]"#,
        &[
            r#"5:26: error: EndpointSlice default/user-1: endpoints[0].addresses[0]: "::1" is no IPv4 address; respell it or change addressType"#,
        ],
    ),
    (
        r"addressType: IPv6
endpoints: [{addresses: [10.0.0.1]}]",
        &[
            r#"5:26: error: EndpointSlice default/user-1: endpoints[0].addresses[0]: "10.0.0.1" is no IPv6 address; respell it or change addressType"#,
        ],
    ),
    (
        r"addressType: IPv4
endpoints: [{addresses: [0.0.0.0, 224.0.0.1]}]",
        &[
            "5:26: error: EndpointSlice default/user-1: endpoints[0].addresses[0]: 0.0.0.0 is no address that can be dialled; write one host's address",
            "5:35: error: EndpointSlice default/user-1: endpoints[0].addresses[1]: 224.0.0.1 is no address that can be dialled; write one host's address",
        ],
    ),
    (
        r"addressType: FQDN
endpoints: [{addresses: [a.example]}]",
        &[
            "4:1: warning: EndpointSlice default/user-1: addressType: the mesh doesn't read names as addresses; use IPv4 or IPv6",
        ],
    ),
    (
        r"addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http, port: 80}, {name: http, port: 81}]",
        &[
            "6:34: error: EndpointSlice default/user-1: ports[1].name: http stands in ports[0] already; let them differ",
        ],
    ),
    (
        r"addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http}]",
        &[
            "6:9: warning: EndpointSlice default/user-1: ports[0].port: an endpoint port without a number is taken for the Service port's own target; add the number",
        ],
    ),
    (
        r"addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{port: 65536}]",
        &[
            "6:10: error: EndpointSlice default/user-1: ports[0].port: 65536 is no port; write a number from 1 to 65535",
        ],
    ),
];

pub(super) const METADATA: &[Case] = &[
    (
        "name: Shop",
        &[
            r#"4:3: error: Namespace Shop: metadata.name: "Shop" must be 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit; respell it"#,
        ],
    ),
    (
        "labels: {a: b}",
        &["3:1: error: metadata.name: is missing; give the object a name; it can't be generated"],
    ),
    (
        r"name: shop
namespace: shop",
        &["5:3: error: Namespace shop: metadata.namespace: a Namespace lives in no namespace; remove it"],
    ),
    (
        r#"name: shop
labels: {a: b c, "-x": y}"#,
        &[
            "5:12: error: Namespace shop: metadata.labels.a: a label's value must be at most 63 letters, digits, dashes, dots and underscores, beginning and ending with a letter or digit; shorten or respell it",
            "5:20: error: Namespace shop: metadata.labels.-x: a key must be a name of at most 63 letters, digits, dashes, dots and underscores, perhaps with a domain and a slash in front; respell it",
        ],
    ),
    (
        r"name: shop
labels: {a: 1}",
        &[
            r#"5:12: error: Namespace shop: metadata.labels.a: must be text, but is a number; put it in quotes: "1""#,
        ],
    ),
    (
        r#"name: shop
annotations: {"a/b/c": x}"#,
        &[
            r#"5:17: error: Namespace shop: metadata.annotations["a/b/c"]: a key must be a name of at most 63 letters, digits, dashes, dots and underscores, perhaps with a domain and a slash in front; respell it"#,
        ],
    ),
    (
        r"name: shop
label: {a: b}",
        &["5:3: error: Namespace shop: metadata.label: is no field that exists here; did you mean labels?"],
    ),
    (
        r"name: shop
creationTimestamp: yesterday",
        &[
            "1:1: error: Namespace shop: failed to parse four digit integer as year: invalid digit, expected 0-9 but got y; compare the object with `kubectl explain`",
        ],
    ),
];
