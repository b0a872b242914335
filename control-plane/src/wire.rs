//! Discovery messages as values of the core, and back. Pure.

use std::net::SocketAddr;

use prost::Message;
use tonic::Status;
use weft_control_plane_core::resource::{Kind, Name};
use weft_control_plane_core::stream::{Names, Rejection, Request, Response};
use weft_xds_proto::envoy::config::core::v3::Node;
use weft_xds_proto::envoy::config::core::v3::node::UserAgentVersionType;
use weft_xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use weft_xds_proto::google::protobuf::{Any, value};
use weft_xds_proto::google::rpc;
use weft_xds_proto::types;
use weft_xds_proto::weft::RejectedResources;

/// Key in `node.metadata` under which Envoy says where its one listener binds.
const LISTEN_KEY: &str = "weft.dev/listen";

/// The end of the type URL of [`RejectedResources`].
const REJECTED_TYPE: &str = "/weft.v1.RejectedResources";

/// Bytes of a client's version that are kept.
const VERSION_BYTES_MAX: usize = 64;

/// What a client says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// `node.id`.
    pub id: String,
    /// `node.user_agent_name`.
    pub user_agent: String,
    /// `node.user_agent_version`; empty: it doesn't say.
    pub version: String,
    /// Where Envoy's one listener binds.
    pub listen: Option<SocketAddr>,
}

/// A request, and who says it is asking.
#[derive(Debug)]
pub struct Asked {
    /// Said at least in a stream's first request.
    pub node: Option<Introduction>,
    /// The request.
    pub request: Request,
}

/// A delta request.
pub fn delta_request(message: DeltaDiscoveryRequest) -> Result<Asked, Status> {
    let held = message.initial_resource_versions.into_iter();
    let request = Request {
        kind: kind(&message.type_url)?,
        nonce: message.response_nonce,
        rejection: message.error_detail.map(rejection),
        names: Names::Change {
            subscribe: names(message.resource_names_subscribe),
            unsubscribe: names(message.resource_names_unsubscribe),
            held: held.map(|(name, version)| (name.into(), version)).collect(),
        },
    };
    Ok(Asked {
        node: message.node.map(introduction),
        request,
    })
}

/// A state-of-the-world request.
pub fn full_request(message: DiscoveryRequest) -> Result<Asked, Status> {
    let request = Request {
        kind: kind(&message.type_url)?,
        nonce: message.response_nonce,
        rejection: message.error_detail.map(rejection),
        names: Names::All(names(message.resource_names)),
    };
    Ok(Asked {
        node: message.node.map(introduction),
        request,
    })
}

/// A delta response.
pub fn delta_response(response: Response) -> DeltaDiscoveryResponse {
    let resource = |(name, content): (Name, weft_control_plane_core::stream::Content)| Resource {
        name: name.to_string(),
        version: content.version.to_string(),
        resource: Some(any(response.kind, &content.body)),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: response.version.to_string(),
        resources: response.resources.into_iter().map(resource).collect(),
        type_url: type_url(response.kind).to_owned(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        nonce: response.nonce,
        ..DeltaDiscoveryResponse::default()
    }
}

/// A state-of-the-world response.
pub fn full_response(response: Response) -> DiscoveryResponse {
    let resources = response.resources.iter();
    DiscoveryResponse {
        version_info: response.version.to_string(),
        resources: resources
            .map(|(_, content)| any(response.kind, &content.body))
            .collect(),
        type_url: type_url(response.kind).to_owned(),
        nonce: response.nonce,
        ..DiscoveryResponse::default()
    }
}

/// The type URL of a kind.
pub fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Cluster => types::CLUSTER,
        Kind::Endpoints => types::ENDPOINTS,
        Kind::Listener => types::LISTENER,
        Kind::Route => types::ROUTE,
        Kind::Secret => types::SECRET,
        Kind::Hints => types::HINTS,
    }
}

fn kind(url: &str) -> Result<Kind, Status> {
    let kinds = weft_control_plane_core::stream::KINDS;
    let known = kinds.into_iter().find(|kind| type_url(*kind) == url);
    known.ok_or_else(|| {
        let url = &url[..url.floor_char_boundary(128)];
        Status::invalid_argument(format!("{url:?} is no type of resource that is served here"))
    })
}

fn any(kind: Kind, body: &[u8]) -> Any {
    Any {
        type_url: type_url(kind).to_owned(),
        value: body.to_vec(),
    }
}

fn names(names: Vec<String>) -> Vec<Name> {
    names.into_iter().map(Name::from).collect()
}

fn introduction(node: Node) -> Introduction {
    let listen = node
        .metadata
        .and_then(|metadata| match metadata.fields.get(LISTEN_KEY)?.kind.as_ref()? {
            value::Kind::StringValue(text) => text.parse().ok(),
            _ => None,
        });
    let version = match node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(mut version)) => {
            version.truncate(version.floor_char_boundary(VERSION_BYTES_MAX));
            version
        }
        _ => String::new(),
    };
    Introduction {
        id: node.id,
        user_agent: node.user_agent_name,
        version,
        listen,
    }
}

/// A NACK. Its details may list what was rejected; details of other types, or malformed ones, say nothing, so that the
/// whole response counts as rejected.
fn rejection(status: rpc::Status) -> Rejection {
    let details = status
        .details
        .iter()
        .filter(|detail| detail.type_url.ends_with(REJECTED_TYPE));
    let lists = details.filter_map(|detail| RejectedResources::decode(&*detail.value).ok());
    let resources = lists.flat_map(|list| list.resources);
    Rejection {
        message: status.message,
        resources: resources.map(|one| (one.name.into(), one.reason)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use weft_control_plane_core::stream::Content;
    use weft_control_plane_core::version::Version;
    use weft_xds_proto::google::protobuf::{Struct, Value};
    use weft_xds_proto::weft::RejectedResource;

    use super::*;

    #[test]
    fn a_listed_rejection_reads_back() {
        let list = RejectedResources {
            resources: vec![RejectedResource {
                name: "a".into(),
                reason: "no".into(),
            }],
        };
        let other = Any {
            type_url: "type.googleapis.com/other".into(),
            value: vec![1, 2, 3],
        };
        let status = rpc::Status {
            code: 3,
            message: "bad".into(),
            details: vec![other.clone(), weft_xds_proto::pack_any(list)],
        };
        let message = DeltaDiscoveryRequest {
            type_url: types::CLUSTER.into(),
            response_nonce: "7".into(),
            error_detail: Some(status),
            ..DeltaDiscoveryRequest::default()
        };
        let asked = delta_request(message.clone()).unwrap();
        assert_eq!(asked.request.nonce, "7");
        assert_eq!(
            asked.request.rejection.unwrap().resources,
            [("a".into(), "no".to_owned())]
        );
        let garbled = Any {
            type_url: format!("x{REJECTED_TYPE}"),
            value: vec![0xff],
        };
        let status = rpc::Status {
            details: vec![other, garbled],
            ..rpc::Status::default()
        };
        let message = DeltaDiscoveryRequest {
            error_detail: Some(status),
            ..message
        };
        assert!(
            delta_request(message)
                .unwrap()
                .request
                .rejection
                .unwrap()
                .resources
                .is_empty()
        );
    }

    #[test]
    fn envoy_says_where_it_listens() {
        let text = Value {
            kind: Some(value::Kind::StringValue("127.0.0.1:15001".into())),
        };
        let node = Node {
            id: "shop/sa/user".into(),
            user_agent_name: "envoy".into(),
            metadata: Some(Struct {
                fields: HashMap::from([(LISTEN_KEY.into(), text)]).into_iter().collect(),
            }),
            ..Node::default()
        };
        assert_eq!(
            introduction(node).listen,
            Some("127.0.0.1:15001".parse().unwrap())
        );
    }

    #[test]
    fn every_kind_has_a_type_of_its_own_and_others_are_refused() {
        for one in weft_control_plane_core::stream::KINDS {
            assert_eq!(kind(type_url(one)).unwrap(), one);
        }
        assert_eq!(kind("nonsense").unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn a_response_carries_names_versions_and_bodies() {
        let content = Content {
            version: Version::of("v"),
            body: b"body".as_slice().into(),
        };
        let response = Response {
            kind: Kind::Route,
            nonce: "1".into(),
            version: Version::of("all"),
            resources: vec![("r".into(), content.clone())],
            removed: vec!["gone".into()],
        };
        let delta = delta_response(response.clone());
        assert_eq!(delta.resources[0].version, content.version.to_string());
        assert_eq!(delta.resources[0].resource.as_ref().unwrap().value, b"body");
        assert_eq!(
            (delta.removed_resources, delta.nonce),
            (vec!["gone".to_owned()], "1".to_owned())
        );
        let full = full_response(response);
        assert_eq!(full.resources[0].type_url, types::ROUTE);
        assert_eq!(full.version_info, Version::of("all").to_string());
    }
}
