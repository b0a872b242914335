use super::Case;

pub(super) const DOCUMENTS: &[Case] = &[
    (
        r"metadata: {name: x}
",
        &[
            "1:1: error: every object says what it is by apiVersion and kind; kind is missing; add it, or take the document out",
        ],
    ),
    (
        r"apiVersion: v1
metadata: {name: x}
",
        &[
            "1:1: error: every object says what it is by apiVersion and kind; kind is missing; add it, or take the document out",
        ],
    ),
    (
        r"kind: Service
metadata: {name: x}
",
        &[
            "1:1: error: every object says what it is by apiVersion and kind; apiVersion is missing; add it, or take the document out",
        ],
    ),
    (
        r"- a
- b
",
        &[
            "1:1: error: every object says what it is by apiVersion and kind; kind is missing; add it, or take the document out",
        ],
    ),
    (
        r"apiVersion: weft.dev/v1
kind: TrafficPolicy
metadata: {name: x}
",
        &[
            "1:1: error: apiVersion: the mesh doesn't read TrafficPolicy in version weft.dev/v1; write apiVersion: weft.dev/v1alpha1",
        ],
    ),
    (
        r"apiVersion: weft.dev/v1alpha1
kind: TraficPolicy
metadata: {name: x}
",
        &["2:1: error: kind: weft.dev has no kind TraficPolicy; did you mean TrafficPolicy?"],
    ),
    (
        r"apiVersion: gateway.networking.k8s.io/v1
kind: HttpRoute
metadata: {name: x}
",
        &["2:1: error: kind: there is no kind HttpRoute; did you mean HTTPRoute?"],
    ),
    (
        r"apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: x}
",
        &[
            "1:1: error: apiVersion: the mesh doesn't read HTTPRoute in version gateway.networking.k8s.io/v1beta1; write apiVersion: gateway.networking.k8s.io/v1",
        ],
    ),
    (
        r"apiVersion: networking.k8s.io/v1
kind: EndpointSlice
metadata: {name: x}
",
        &[
            "1:1: error: apiVersion: networking.k8s.io/v1 has no kind EndpointSlice; write apiVersion: discovery.k8s.io/v1",
        ],
    ),
    (
        r"apiVersion: v1
kind: ConfigMap
---
apiVersion: apps/v1
kind: Deployment
---
apiVersion: v1
kind: ConfigMap
",
        &[" skipped: 2 ConfigMap, 1 Deployment (the mesh doesn't read these kinds)"],
    ),
    (
        r"apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: A}}
- {apiVersion: v1, kind: List, items: []}
",
        &[
            r#"4:48: error: Namespace A: metadata.name: "A" must be 1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit; respell it"#,
            "5:3: error: a List in a List is not read; put the objects into one List, or into documents of their own",
        ],
    ),
    (
        r"apiVersion: v1
kind: Namespace
metadata: {name: a}
metadata: {name: b}
",
        &[
            r#"4:1: error: the key "metadata" is written twice; it stands in line 3 already; keep one of the two"#,
        ],
    ),
    (
        r"apiVersion: v1
kind: Namespace
	metadata: {name: a}
",
        &[
            "2:7: error: not readable as YAML: while scanning a plain scalar, found a tab; look for wrong indentation, tabs or missing quotes at this place or just above",
        ],
    ),
    (
        r"apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {serviceAccountName: A_b, containers: [{name: app, resources: {limits: {cpu: 2}}}]}
status: {podIP: here}
",
        &[
            r#"4:8: error: Pod default/a: spec.serviceAccountName: "A_b" must be 1 to 253 lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit; respell it"#,
            "5:10: error: Pod default/a: status.podIP: is no IP address; respell it",
        ],
    ),
    (
        r"apiVersion: v1
kind: Pod
metadata: {name: a, annotations: null}
spec: {}
",
        &[
            "4:1: error: Pod default/a: spec.containers: is missing; add it: List of containers belonging to the pod",
        ],
    ),
    (
        r"apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, annotations: {weft.dev/service-account: A}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1]}]
",
        &[
            "3:1: warning: EndpointSlice default/a: metadata.labels: the slice belongs to no Service, so nobody is sent to its endpoints; add the label kubernetes.io/service-name with the Service's name",
            r#"3:35: error: EndpointSlice default/a: metadata.annotations["weft.dev/service-account"]: "A" must be 1 to 253 lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit; respell it"#,
        ],
    ),
];
