use super::Case;

pub(super) const TRAFFIC_POLICIES: &[Case] = &[
    (
        "balancer: {algorithm: RingHsh}",
        &[
            r#"6:14: error: TrafficPolicy shop/p: spec.balancer.algorithm: "RingHsh" is none of PeakEwma, RoundRobin, LeastRequest, Random or RingHash; did you mean RingHash?"#,
        ],
    ),
    (
        "balancer: {algorithm: PeakEwma, ringHash: {header: x-user}}",
        &["6:3: error: TrafficPolicy shop/p: spec.balancer: ringHash is only read by algorithm RingHash"],
    ),
    (
        r#"balancer: {algorithm: RingHash, ringHash: {header: "x user"}}"#,
        &[
            r#"6:46: error: TrafficPolicy shop/p: spec.balancer.ringHash.header: "x user" has characters that don't belong here; it must match ^[A-Za-z0-9!#$%&'*+\-.^_|~]+$"#,
        ],
    ),
    (
        "balancer: {slowStart: 2h}",
        &[
            "6:14: error: TrafficPolicy shop/p: spec.balancer.slowStart: must not exceed 1h; the field in short: How long a new endpoint takes to get its full share: 0s (off, the default) to 1h.",
        ],
    ),
    (
        "connectTimeout: 2m",
        &[
            "6:3: error: TrafficPolicy shop/p: spec.connectTimeout: must lie between 1ms and 1m; the field in short: How long opening a connection may take, TCP and TLS together: 1ms to 1m. Default 2s.",
        ],
    ),
    (
        "connectTimeout: fast",
        &[
            r#"6:3: error: TrafficPolicy shop/p: spec.connectTimeout: "fast" is no duration; write whole numbers with h, m, s or ms, such as 250ms, 5s or 1h30m"#,
        ],
    ),
    (
        "connectTimeout: 5",
        &[
            r#"6:3: error: TrafficPolicy shop/p: spec.connectTimeout: must be text, but is a number; put it in quotes: "5""#,
        ],
    ),
    (
        "limits: {connections: 0, pending: 1000001}",
        &[
            "6:12: error: TrafficPolicy shop/p: spec.limits.connections: 0 is out of range; write a number from 1 to 1000000",
            "6:28: error: TrafficPolicy shop/p: spec.limits.pending: 1000001 is out of range; write a number from 1 to 1000000",
        ],
    ),
    (
        "limits: {requests: many}",
        &["6:12: error: TrafficPolicy shop/p: spec.limits.requests: must be a whole number, but is text"],
    ),
    (
        "outlier: {baseEjection: 10m, maxEjection: 1m}",
        &["6:3: error: TrafficPolicy shop/p: spec.outlier: baseEjection must not exceed maxEjection"],
    ),
    (
        "outlier: {maxEjectedPercent: 101}",
        &[
            "6:13: error: TrafficPolicy shop/p: spec.outlier.maxEjectedPercent: 101 is out of range; write a number from 0 to 100",
        ],
    ),
    (
        "breaker: {endpoint: {openFor: 5s}}",
        &[
            "6:13: error: TrafficPolicy shop/p: spec.breaker.endpoint.consecutiveFailures: is missing; add it: Failures in a row that open it; 0 switches it off.",
        ],
    ),
    (
        "breaker: {service: {consecutiveFailures: 3, halfOpenProbes: 0}}",
        &[
            "6:47: error: TrafficPolicy shop/p: spec.breaker.service.halfOpenProbes: 0 is out of range; write a number from 1 to 1000",
        ],
    ),
    (
        "retry: {attempts: 11}",
        &[
            "6:11: error: TrafficPolicy shop/p: spec.retry.attempts: 11 is out of range; write a number from 0 to 10",
        ],
    ),
    (
        "retry: {statuses: [503, 200]}",
        &[
            "6:27: error: TrafficPolicy shop/p: spec.retry.statuses[1]: 200 is out of range; write a number from 400 to 599",
        ],
    ),
    (
        "retry: {grpcCodes: [UNAVAILABLE]}",
        &[
            r#"6:23: error: TrafficPolicy shop/p: spec.retry.grpcCodes[0]: "UNAVAILABLE" is none of Cancelled, Unknown, DeadlineExceeded, ResourceExhausted, Aborted, Internal, Unavailable or DataLoss; did you mean Unavailable?"#,
        ],
    ),
    (
        "retry: {backoff: {base: 1s, max: 100ms}}",
        &["6:11: error: TrafficPolicy shop/p: spec.retry.backoff: base must not exceed max"],
    ),
    (
        "retry: {budget: {percent: 120, flor: 3}}",
        &[
            "6:20: error: TrafficPolicy shop/p: spec.retry.budget.percent: 120 is out of range; write a number from 0 to 100",
            "6:34: error: TrafficPolicy shop/p: spec.retry.budget.flor: is no field that exists here; did you mean floor?",
        ],
    ),
    (
        "outliers: {consecutiveFailures: 3}",
        &[
            "6:3: error: TrafficPolicy shop/p: spec.outliers: is no field that exists here; did you mean outlier?",
        ],
    ),
];

pub(super) const TRAFFIC_POLICY_TARGETS: &[Case] = &[
    (
        "targetRefs: []",
        &[
            "5:3: error: TrafficPolicy shop/p: spec.targetRefs: has 0 items; at least 1 are needed; add what is missing",
        ],
    ),
    (
        "balancer: {}",
        &[
            "4:1: error: TrafficPolicy shop/p: spec.targetRefs: is missing; add it: The Services this policy holds for, in its own namespace",
        ],
    ),
    (
        "targetRefs: [{group: apps, kind: Deployment, name: user}]",
        &[
            r#"5:16: error: TrafficPolicy shop/p: spec.targetRefs[0]: only a Service (group "", kind Service) can be a target"#,
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: user}, {group: "", kind: Service, name: user}]"#,
        &["5:3: error: TrafficPolicy shop/p: spec.targetRefs: the same target is named twice"],
    ),
    (
        "targetRefs: [{kind: Service, name: user}]",
        &[
            r#"5:16: error: TrafficPolicy shop/p: spec.targetRefs[0].group: is missing; add it: API group of the target: "" (the core group)."#,
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: ""}]"#,
        &[
            "5:43: error: TrafficPolicy shop/p: spec.targetRefs[0].name: must not be empty; fill it in, or leave the field out if it is optional",
        ],
    ),
];

pub(super) const MESH_TLS_POLICIES: &[Case] = &[
    (
        r#"targetRefs: [{group: "", kind: Namespace, name: other}]
mode: Strict"#,
        &[
            "5:45: error: MeshTLSPolicy shop/m: spec.targetRefs[0].name: the policy is in namespace shop and can't decide for namespace other; name shop, or put the policy into namespace other",
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Namespace, name: shop, sectionName: http}]
mode: Strict"#,
        &[
            "5:16: error: MeshTLSPolicy shop/m: spec.targetRefs[0]: sectionName names a port, which only a Service has",
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Pod, name: user}]
mode: Strict"#,
        &[
            r#"5:16: error: MeshTLSPolicy shop/m: spec.targetRefs[0]: only a Namespace or a Service (group "") can be a target"#,
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: user}]
mode: strict"#,
        &[
            r#"6:3: error: MeshTLSPolicy shop/m: spec.mode: "strict" is none of Strict or Permissive; did you mean Strict?"#,
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: user}]"#,
        &[
            "4:1: error: MeshTLSPolicy shop/m: spec.mode: is missing; add it: Strict: only callers with a certificate of this mesh",
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: user, sectionName: a}, {group: "", kind: Service, name: user, sectionName: a}]
mode: Permissive"#,
        &["5:3: error: MeshTLSPolicy shop/m: spec.targetRefs: the same target is named twice"],
    ),
    (
        r#"targetRefs: [{group: "", kind: Pod, name: user}]
mode: strict"#,
        &[
            r#"5:16: error: MeshTLSPolicy shop/m: spec.targetRefs[0]: only a Namespace or a Service (group "") can be a target"#,
            r#"6:3: error: MeshTLSPolicy shop/m: spec.mode: "strict" is none of Strict or Permissive; did you mean Strict?"#,
        ],
    ),
    (
        r#"targetRefs: [{group: "", kind: Service, name: user, port: 3}, {group: "", kind: Service, name: user}]
mode: Strict"#,
        &[
            "5:3: error: MeshTLSPolicy shop/m: spec.targetRefs: the same target is named twice",
            "5:55: error: MeshTLSPolicy shop/m: spec.targetRefs[0].port: is no field that exists here; remove it, or write group, kind, name or sectionName",
        ],
    ),
];
