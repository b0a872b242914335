//! What control plane and proxies send each other, and what people write.

use prost::Message;
use weft_api::object::Object;
use weft_api::validate::{Located, check_str};
use weft_control_plane::encode::{Context, encode};
use weft_control_plane::wire;
use weft_control_plane_core::catalog::{Catalog, Event};
use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::names::Settings;
use weft_control_plane_core::stream::{KINDS, Request, Session, Variant};
use weft_proxy::xds::decode::{DecodeError, decode};
use weft_proxy_core::snapshot::{Snapshot, Store};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use weft_xds_proto::google::protobuf::Any;
use weft_xds_proto::google::rpc;
use weft_xds_proto::types;

/// Types of resources; an input's first byte chooses.
const TYPES: [&str; 6] = [
    types::CLUSTER,
    types::ENDPOINTS,
    types::LISTENER,
    types::ROUTE,
    types::SECRET,
    types::HINTS,
];

/// The trust domain and the cluster domain.
const DOMAIN: &str = "cluster.local";
/// A port of the Service in [`objects`].
const SERVICE: &str = "user.shop.svc.cluster.local:80";

/// A resource as the control plane sends it: what decodes can be linked.
pub(crate) fn xds_decode(data: &[u8]) {
    let Some((kind, value)) = data.split_first() else {
        return;
    };
    let any = Any {
        type_url: TYPES[usize::from(*kind) % TYPES.len()].to_owned(),
        value: value.to_vec(),
    };
    let Err(DecodeError::NameMismatch { own: name, .. }) = decode("\0", &any) else {
        return;
    };
    let Ok(resource) = decode(&name, &any) else { return };
    let mut store = Store::default();
    store.set_roots([(resource.kind(), resource.name().clone())].into());
    store.apply(vec![resource], Vec::new());
    let wanted = store.wanted();
    let snapshot = store.link(&Snapshot::default());
    store.retain(&wanted);
    store.link(&snapshot);
}

/// What the control plane makes of [`objects`], each resource with its type in front.
pub(crate) fn xds_resources() -> Vec<Vec<u8>> {
    let texts = objects()
        .into_iter()
        .filter_map(|bytes| String::from_utf8(bytes).ok());
    let mut catalog = catalog(texts.flat_map(|text| check_str("seed.yaml", &text).objects));
    let context = Context {
        trust_domain: DOMAIN,
        listen: None,
    };
    let mut seeds = Vec::new();
    for kind in KINDS {
        let resolved = catalog.resolve(kind, SERVICE, "shop");
        let value = resolved.value.as_ref();
        let any = value.and_then(|value| encode(SERVICE, &value.resource, Dialect::Weft, &context));
        let place = |any: &Any| TYPES.iter().position(|known| *known == any.type_url);
        if let Some((any, place)) = any.as_ref().and_then(|any| Some((any, place(any)?))) {
            seeds.push([vec![u8::try_from(place).unwrap_or_default()], any.value.clone()].concat());
        }
    }
    seeds
}

fn catalog(objects: impl Iterator<Item = Located<Object>>) -> Catalog {
    let mut catalog = Catalog::new(Settings {
        trust_domain: DOMAIN.into(),
        cluster_domain: DOMAIN.into(),
    });
    catalog.apply(objects.map(|object| Event::Apply(object.value)).collect());
    catalog
}

/// A subscriber's request, in both variants of the protocol, and the stream's answer to it.
pub(crate) fn discovery_request(data: &[u8]) {
    if let Ok(message) = DeltaDiscoveryRequest::decode(data)
        && let Ok(asked) = wire::delta_request(message)
    {
        serve(Variant::Delta, &asked.request);
    }
    if let Ok(message) = DiscoveryRequest::decode(data)
        && let Ok(asked) = wire::full_request(message)
    {
        serve(Variant::StateOfTheWorld, &asked.request);
    }
}

/// Asked the same twice, with everything absent in between.
fn serve(variant: Variant, request: &Request) {
    for wildcard_allowed in [false, true] {
        let mut session = Session::new(variant, wildcard_allowed);
        for _ in 0..2 {
            let Ok(turn) = session.request(request.clone()) else {
                break;
            };
            for name in &turn.interest.subscribe {
                session.update(request.kind, name, None);
            }
            while let Some(response) = session.next_response() {
                let _ = wire::delta_response(response);
            }
        }
    }
}

pub(crate) fn discovery_requests() -> Vec<Vec<u8>> {
    let node = Node {
        id: "shop/user-0".to_owned(),
        user_agent_name: "weft".to_owned(),
        ..Node::default()
    };
    let delta = |kind: &str, names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node.clone()),
        type_url: kind.to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: vec!["b:80".to_owned()],
        initial_resource_versions: [("a:80".to_owned(), "0123456789abcdef".to_owned())].into(),
        response_nonce: "1".to_owned(),
        error_detail: Some(rpc::Status {
            code: 3,
            message: "no".to_owned(),
            details: Vec::new(),
        }),
        ..DeltaDiscoveryRequest::default()
    };
    let full = DiscoveryRequest {
        node: Some(node.clone()),
        type_url: types::LISTENER.to_owned(),
        resource_names: vec!["a:80".to_owned()],
        ..DiscoveryRequest::default()
    };
    vec![
        delta(types::LISTENER, &["a:80", "10.0.0.1:80"]).encode_to_vec(),
        delta(types::CLUSTER, &["*"]).encode_to_vec(),
        full.encode_to_vec(),
    ]
}

/// Manifests as people write them: what is refused is said, and the rest can be translated.
pub(crate) fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let report = check_str("fuzz.yaml", text);
    let errors = report
        .findings
        .iter()
        .filter(|finding| finding.is_error())
        .count();
    assert!(report.refused.is_empty() || errors > 0, "what is refused is said");
    let mut catalog = catalog(report.objects.into_iter());
    for kind in KINDS {
        let _ = (catalog.resolve(kind, SERVICE, "shop"), catalog.all(kind, "shop"));
    }
    let _ = catalog.conditions();
}

pub(crate) fn objects() -> Vec<Vec<u8>> {
    super::texts(&[
        "apiVersion: v1\nkind: Service\nmetadata: {name: user, namespace: shop}\nspec:\n  selector: {app: user}\n  ports:\n  \
         - {name: http, port: 80, targetPort: 8080, appProtocol: http}\n",
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: user-1\n  namespace: shop\n  \
         labels: {kubernetes.io/service-name: user}\naddressType: IPv4\nports: [{name: http, port: 8080}]\n\
         endpoints:\n- {addresses: ['10.0.0.1'], conditions: {ready: true}}\n",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: user, namespace: shop}\nspec:\n  \
         parentRefs: [{group: '', kind: Service, name: user, port: 80}]\n  rules:\n  - matches: [{path: {type: \
         PathPrefix, value: /a}}]\n    timeouts: {request: 1s}\n    backendRefs: [{name: user, port: 80, weight: 1}]\n",
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: user, namespace: shop}\nspec:\n  \
         targetRefs: [{group: '', kind: Service, name: user}]\n  connectTimeout: 1s\n",
        "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n  \
         targetRefs: [{group: '', kind: Namespace, name: shop}]\n  mode: Permissive\n---\n&a [*a, !x y]\n",
    ])
}
