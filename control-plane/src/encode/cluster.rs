//! Clusters: policy in the standard fields where there is one, in our extension where there is none.

use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::{Balancer, Breaker, Cluster, Outlier, Protocol};
use weft_xds_proto::envoy::config::cluster::v3 as cluster;
use weft_xds_proto::envoy::config::core::v3 as core;
use weft_xds_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use weft_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use weft_xds_proto::envoy::extensions::upstreams::http::v3 as http;
use weft_xds_proto::envoy::r#type::matcher::v3 as matcher;
use weft_xds_proto::envoy::r#type::v3::Percent;
use weft_xds_proto::{names, pack_any, weft};

use super::endpoints::mesh_struct;
use super::{CERTIFICATE_NAME, Context, duration, extension, from_ads, listener, number};

/// Key of the HTTP options in `typed_extension_protocol_options`.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Encodes cluster `name`.
pub(super) fn encode(
    name: &str,
    value: &Cluster,
    dialect: Dialect,
    context: &Context<'_>,
) -> cluster::Cluster {
    let common = cluster::Cluster {
        name: name.to_owned(),
        connect_timeout: Some(duration(value.connect_timeout)),
        lb_policy: lb_policy(&value.balancer, dialect).into(),
        circuit_breakers: Some(circuit_breakers(value)),
        outlier_detection: value
            .outlier
            .as_ref()
            .map(|outlier| outlier_detection(outlier, dialect)),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig {
            eds_config: Some(from_ads()),
            service_name: String::new(),
        }),
        ..cluster::Cluster::default()
    };
    match dialect {
        Dialect::Weft => cluster::Cluster {
            metadata: Some(extension(policy(value))),
            ..common
        },
        Dialect::Grpc => cluster::Cluster {
            transport_socket: grpc_socket(value),
            ..common
        },
        Dialect::Envoy => cluster::Cluster {
            transport_socket_matches: transport_socket_matches(value, context),
            typed_extension_protocol_options: http_options(value),
            ..common
        },
    }
}

/// What the standard fields can't say.
fn policy(value: &Cluster) -> weft::ClusterPolicy {
    let hash_header = match &value.balancer {
        Balancer::RingHash(Some(header)) => header.clone(),
        _ => String::new(),
    };
    weft::ClusterPolicy {
        peak_ewma: value.balancer == Balancer::PeakEwma,
        endpoint_breaker: value.endpoint_breaker.as_ref().map(breaker),
        service_breaker: value.service_breaker.as_ref().map(breaker),
        default_retry: Some(weft::DefaultRetry {
            attempts: value.default_retry.attempts,
            backoff_base: Some(duration(value.default_retry.backoff_base)),
            backoff_max: Some(duration(value.default_retry.backoff_max)),
        }),
        slow_start: Some(duration(value.slow_start)),
        prefer_zone: value.prefer_zone,
        hash_header,
        protocol: listener::protocol(value.protocol).into(),
    }
}

fn breaker(value: &Breaker) -> weft::Breaker {
    weft::Breaker {
        consecutive_failures: value.consecutive_failures,
        open_for: Some(duration(value.open_for)),
        half_open_probes: value.half_open_probes,
    }
}

/// gRPC's C core knows round robin and ring hash only and refuses a cluster with anything else.
fn lb_policy(balancer: &Balancer, dialect: Dialect) -> cluster::cluster::LbPolicy {
    use cluster::cluster::LbPolicy;
    match (balancer, dialect) {
        (Balancer::RingHash(_), _) => LbPolicy::RingHash,
        (Balancer::RoundRobin, _) | (_, Dialect::Grpc) => LbPolicy::RoundRobin,
        (Balancer::PeakEwma | Balancer::LeastRequest, _) => LbPolicy::LeastRequest,
        (Balancer::Random, _) => LbPolicy::Random,
    }
}

fn circuit_breakers(value: &Cluster) -> cluster::CircuitBreakers {
    use cluster::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let budget = RetryBudget {
        budget_percent: Some(Percent {
            value: value.retry_budget_percent.into(),
        }),
        min_retry_concurrency: Some(number(value.retry_budget_floor)),
        ..RetryBudget::default()
    };
    cluster::CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: Some(number(value.max_connections)),
            max_pending_requests: Some(number(value.max_pending)),
            max_requests: Some(number(value.max_requests)),
            retry_budget: Some(budget),
            ..Thresholds::default()
        }],
        ..cluster::CircuitBreakers::default()
    }
}

/// gRPC has the success-rate and failure-percentage detectors only: failures in a row don't exist there, and no
/// detector is switched on that nobody asked for.
fn outlier_detection(value: &Outlier, dialect: Dialect) -> cluster::OutlierDetection {
    let ejection = cluster::OutlierDetection {
        base_ejection_time: Some(duration(value.base_ejection)),
        max_ejection_time: Some(duration(value.max_ejection)),
        max_ejection_percent: Some(number(value.max_ejection_percent.into())),
        enforcing_success_rate: Some(number(0)),
        ..cluster::OutlierDetection::default()
    };
    if dialect == Dialect::Grpc {
        return ejection;
    }
    cluster::OutlierDetection {
        consecutive_5xx: Some(number(value.consecutive_failures)),
        ..ejection
    }
}

/// Peers are told apart by exact SPIFFE ids.
fn exact_ids(value: &Cluster) -> Vec<matcher::StringMatcher> {
    value
        .identities
        .iter()
        .map(|id| matcher::StringMatcher {
            match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(id.to_string())),
            ..matcher::StringMatcher::default()
        })
        .collect()
}

/// gRPC: certificate and roots from its own provider. `None` where no endpoint is meshed.
fn grpc_socket(value: &Cluster) -> Option<core::TransportSocket> {
    let provider = || tls::CertificateProviderPluginInstance {
        instance_name: CERTIFICATE_NAME.to_owned(),
        ..tls::CertificateProviderPluginInstance::default()
    };
    // The deprecated field is the one every gRPC implementation reads.
    #[allow(deprecated)]
    let validation = tls::CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_subject_alt_names: exact_ids(value),
        ..tls::CertificateValidationContext::default()
    };
    (!value.identities.is_empty()).then(|| {
        tls_socket(tls::CommonTlsContext {
            tls_certificate_provider_instance: Some(provider()),
            validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(
                validation,
            )),
            ..tls::CommonTlsContext::default()
        })
    })
}

/// Envoy: mesh TLS for the endpoints that have an identity, plaintext for the others.
fn transport_socket_matches(
    value: &Cluster,
    context: &Context<'_>,
) -> Vec<cluster::cluster::TransportSocketMatch> {
    use cluster::cluster::TransportSocketMatch;
    if value.identities.is_empty() {
        return Vec::new();
    }
    let mesh = TransportSocketMatch {
        name: "mesh".to_owned(),
        r#match: Some(mesh_struct()),
        transport_socket: Some(envoy_socket(value, context)),
    };
    let plain = TransportSocketMatch {
        name: "plaintext".to_owned(),
        r#match: None,
        transport_socket: Some(core::TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".to_owned(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(
                RawBuffer {},
            ))),
        }),
    };
    vec![mesh, plain]
}

fn envoy_socket(value: &Cluster, context: &Context<'_>) -> core::TransportSocket {
    let sans = exact_ids(value)
        .into_iter()
        .map(|id| tls::SubjectAltNameMatcher {
            san_type: tls::subject_alt_name_matcher::SanType::Uri.into(),
            matcher: Some(id),
            ..tls::SubjectAltNameMatcher::default()
        })
        .collect();
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_typed_subject_alt_names: sans,
            ..tls::CertificateValidationContext::default()
        }),
        validation_context_sds_secret_config: Some(tls::SdsSecretConfig {
            name: names::trust_bundle(context.trust_domain),
            sds_config: Some(from_ads()),
        }),
        ..tls::common_tls_context::CombinedCertificateValidationContext::default()
    };
    tls_socket(tls::CommonTlsContext {
        tls_params: Some(tls::TlsParameters {
            tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
            ..tls::TlsParameters::default()
        }),
        tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig {
            name: CERTIFICATE_NAME.to_owned(),
            sds_config: None,
        }],
        alpn_protocols: vec!["h2".to_owned()],
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..tls::CommonTlsContext::default()
    })
}

fn tls_socket(context: tls::CommonTlsContext) -> core::TransportSocket {
    let context = tls::UpstreamTlsContext {
        common_tls_context: Some(context),
        ..tls::UpstreamTlsContext::default()
    };
    core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(context))),
    }
}

/// Envoy speaks HTTP/2 to every sidecar, and to applications that want it.
fn http_options(value: &Cluster) -> std::collections::HashMap<String, weft_xds_proto::google::protobuf::Any> {
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    use http::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions};
    let wants_h2 = matches!(value.protocol, Protocol::Http2 | Protocol::Grpc);
    if value.identities.is_empty() && !wants_h2 {
        return std::collections::HashMap::new();
    }
    let options = http::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                core::Http2ProtocolOptions::default(),
            )),
        })),
        ..http::HttpProtocolOptions::default()
    };
    [(HTTP_OPTIONS.to_owned(), pack_any(options))].into()
}
