//! Tokens of the cluster, good and abused, and what certificate requests get for them.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tonic::{Code, Request, Status};
use weft_control_plane::certificates::{Certificates, Issuing};
use weft_control_plane::kubernetes::review::{ReviewError, Reviewer};
use weft_control_plane::peer::Peer;
use weft_control_plane::tokens::TokenChecker;
use weft_control_plane_core::issue::{BURST, RATE};
use weft_control_plane_core::review::Refusal;
use weft_control_plane_core::rights::Account;
use weft_identity::certificate::Details;
use weft_identity::leaf::KeyPair;
use weft_tests::kube::{Kubernetes, until};
use weft_xds_proto::weft::certificate_service_server::CertificateService;
use weft_xds_proto::weft::{SignRequest, SignResponse};

use crate::forged;
use crate::place::found;

/// A namespace with accounts and pods, and whoever makes tokens there.
struct Place {
    client: Client,
    namespace: String,
    accounts: Api<ServiceAccount>,
    pods: Api<Pod>,
}

impl Place {
    async fn new(kubernetes: &Kubernetes) -> Self {
        let client = kubernetes.client().await;
        let namespace = kubernetes.namespace("tokens").await;
        Self {
            accounts: Api::namespaced(client.clone(), &namespace),
            pods: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
        }
    }

    /// A service account and a pod of it, of the same name.
    async fn workload(&self, name: &str) -> Pod {
        let account = json!({ "metadata": { "name": name } });
        let account = serde_json::from_value(account).expect("an account");
        self.accounts
            .create(&PostParams::default(), &account)
            .await
            .expect("made");
        until(self.accounts.clone(), name, "made", |_| true).await;
        let pod = json!({
            "metadata": { "name": name },
            "spec": { "serviceAccountName": name, "containers": [{ "name": "app", "image": "none" }] },
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods
            .create(&PostParams::default(), &pod)
            .await
            .expect("made")
    }

    async fn token(
        &self,
        account: &str,
        audiences: &[&str],
        pod: Option<&Pod>,
    ) -> Result<String, kube::Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(audiences.iter().map(ToString::to_string).collect()),
                bound_object_ref: pod.map(|pod| BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.uid(),
                }),
                expiration_seconds: Some(600),
            }),
            ..TokenRequest::default()
        };
        let made = self
            .accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await?;
        let token = made.status.and_then(|status| status.token);
        Ok(token.expect("a token request is answered"))
    }
}

fn refused(result: Result<weft_control_plane_core::review::Bound, ReviewError>) -> Refusal {
    match result {
        Err(ReviewError::Refused(refusal)) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_good_token_says_everything_and_a_bad_one_nothing() {
    let place = Place::new(Kubernetes::shared()).await;
    let pod = place.workload("user").await;
    let reviewer = Reviewer::new(place.client.clone());
    let good = place.token("user", &["weft"], Some(&pod)).await.expect("a token");
    let bound = reviewer.check(&good).await.expect("a good token");
    assert_eq!(bound.account, Account::new(&place.namespace, "user"));
    assert_eq!(Some(&*bound.uid), pod.uid().as_deref());
    assert_eq!(&*bound.pod, "user");
    // Among several audiences ours is enough; another one, or the API server's own, is not.
    let both = place
        .token("user", &["other", "weft"], Some(&pod))
        .await
        .expect("a token");
    reviewer.check(&both).await.expect("ours is among them");
    for audiences in [&["other"][..], &[]] {
        let token = place.token("user", audiences, Some(&pod)).await.expect("a token");
        let refusal = refused(reviewer.check(&token).await);
        assert!(
            matches!(refusal, Refusal::Refused(_) | Refusal::Audience { .. }),
            "{audiences:?}: {refusal}"
        );
    }
    let unbound = place.token("user", &["weft"], None).await.expect("a token");
    assert!(matches!(
        refused(reviewer.check(&unbound).await),
        Refusal::Unbound(_)
    ));
    for nothing in ["", "a", "a.b.c", "e30.e30.e30", &"x".repeat(20_000)] {
        assert!(
            matches!(reviewer.check(nothing).await, Err(ReviewError::NoToken)),
            "{nothing:.10}"
        );
    }
    let mut broken = good.clone();
    broken.replace_range(broken.len() - 8.., "AAAAAAAA");
    assert!(matches!(
        refused(reviewer.check(&broken).await),
        Refusal::Refused(_)
    ));
}

#[tokio::test]
async fn a_deleted_pods_token_counts_for_nothing() {
    let place = Place::new(Kubernetes::shared()).await;
    let pod = place.workload("user").await;
    let reviewer = Reviewer::new(place.client.clone());
    let token = place.token("user", &["weft"], Some(&pod)).await.expect("a token");
    let bound = reviewer.check(&token).await.expect("a good token");
    let now = DeleteParams::default().grace_period(0);
    place.pods.delete("user", &now).await.expect("deleted");
    reviewer
        .check(&token)
        .await
        .expect("remembered, until the deletion is seen");
    reviewer.pod_deleted(&bound.uid);
    refused(reviewer.check(&token).await);
    // Another replica, which has seen the deletion and never the token, whatever the API server says of it: that
    // remembers its own answers for ten seconds.
    let other = Reviewer::new(place.client.clone());
    other.pod_deleted(&bound.uid);
    refused(other.check(&token).await);
    // One that starts after the deletion has the API server's word alone, for as long as that remembers.
    found("the API server refuses the token", async || {
        let later = Reviewer::new(place.client.clone()).check(&token).await;
        later.is_err().then(|| refused(later))
    })
    .await;
}

#[tokio::test]
async fn nobody_gets_a_token_of_another_accounts_pod() {
    let place = Place::new(Kubernetes::shared()).await;
    let (_, victim) = (place.workload("user").await, place.workload("bank").await);
    let refused = place.token("user", &["weft"], Some(&victim)).await;
    assert!(matches!(refused, Err(kube::Error::Api(_))), "{refused:?}");
}

#[tokio::test]
async fn an_expired_token_and_another_issuers_are_refused() {
    let kubernetes = Kubernetes::start();
    let place = Place::new(&kubernetes).await;
    let pod = place.workload("user").await;
    let token = place.token("user", &["weft"], Some(&pod)).await.expect("a token");
    let reviewer = Reviewer::new(place.client.clone());
    let key = std::fs::read_to_string(kubernetes.state().join("pki/sa.key")).expect("the cluster's key");
    let signer = forged::Signer::new(&kubernetes, &key).await;
    reviewer
        .check(&signer.sign(&token, |_| {}))
        .await
        .expect("what is signed like this is good");
    let expired = signer.sign(&token, |claims| {
        for claim in ["exp", "iat", "nbf"] {
            claims[claim] = json!(claims[claim].as_u64().unwrap_or_default() - 7_200);
        }
    });
    assert!(matches!(
        refused(reviewer.check(&expired).await),
        Refusal::Refused(_)
    ));
    let other = signer.sign(&token, |claims| {
        claims["iss"] = json!("https://elsewhere.example");
    });
    assert!(matches!(
        refused(reviewer.check(&other).await),
        Refusal::Refused(_)
    ));
    let forged_pod = signer.sign(&token, |claims: &mut Value| {
        claims["kubernetes.io"]["pod"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    });
    assert!(matches!(
        refused(reviewer.check(&forged_pod).await),
        Refusal::Refused(_)
    ));
    let stranger = forged::Signer::new(&kubernetes, &forged::new_key()).await;
    assert!(matches!(
        refused(reviewer.check(&stranger.sign(&token, |_| {})).await),
        Refusal::Refused(_)
    ));
}

#[tokio::test]
async fn an_api_server_that_is_gone_makes_no_token_bad() {
    let place = Place::new(Kubernetes::shared()).await;
    let pod = place.workload("user").await;
    let token = place.token("user", &["weft"], Some(&pod)).await.expect("a token");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", closed.local_addr().expect("bound"));
    drop(closed);
    let gone = Client::try_from(Config::new(url.parse().expect("a URL"))).expect("a client");
    let tokens = Arc::new(TokenChecker::Cluster(Arc::new(Reviewer::new(gone))));
    let status = Status::from(tokens.check(&token).await.expect_err("nobody was asked"));
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

/// The service, as a connection without a certificate reaches it.
struct Desk {
    certificates: Certificates,
    token: String,
    peer: Peer,
}

impl Desk {
    async fn open(place: &Place, workload: &str, reviewer: Arc<Reviewer>, issuing: Arc<Issuing>) -> Self {
        let pod = place.workload(workload).await;
        Self {
            token: place
                .token(workload, &["weft"], Some(&pod))
                .await
                .expect("a token"),
            certificates: Certificates::new(issuing, Arc::new(TokenChecker::Cluster(reviewer))),
            peer: Peer {
                address: ([192, 0, 2, 1], 40_000).into(),
                identity: None,
            },
        }
    }

    async fn sign(&self, csr_der: Vec<u8>) -> Result<SignResponse, Status> {
        let mut request = Request::new(SignRequest { csr_der });
        let value = format!("Bearer {}", self.token)
            .parse()
            .expect("a token is ASCII");
        request.metadata_mut().insert("authorization", value);
        request.extensions_mut().insert(self.peer.clone());
        Ok(self.certificates.sign(request).await?.into_inner())
    }
}

fn csr() -> Vec<u8> {
    KeyPair::generate().expect("a key").csr_der().expect("a request")
}

#[tokio::test]
async fn what_a_request_asks_for_beyond_its_key_counts_for_nothing() {
    let place = Place::new(Kubernetes::shared()).await;
    let reviewer = Arc::new(Reviewer::new(place.client.clone()));
    let desk = Desk::open(&place, "user", reviewer, forged::issuing()).await;
    let signed = desk.sign(forged::greedy_csr()).await.expect("its key is good");
    let leaf = signed.chain_der.first().expect("a leaf").clone().into();
    let details = Details::read(&leaf).expect("a workload's, and no authority's");
    let expected = format!("spiffe://mesh.test/ns/{}/sa/user", place.namespace);
    assert_eq!(details.id.as_str(), expected);
    for (what, csr) in [
        ("RSA", forged::rsa_16384_csr()),
        ("empty", Vec::new()),
        ("long", vec![0x30; 9_000]),
    ] {
        let status = desk.sign(csr).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    }
}

#[tokio::test]
async fn ten_thousand_requests_in_a_burst_cost_their_sender_only() {
    const REQUESTS: usize = 10_000;
    let place = Place::new(Kubernetes::shared()).await;
    let reviewer = Arc::new(Reviewer::new(place.client.clone()));
    let issuing = forged::issuing();
    let greedy = Desk::open(&place, "greedy", Arc::clone(&reviewer), Arc::clone(&issuing)).await;
    let modest = Desk::open(&place, "modest", reviewer, issuing).await;
    let csr = csr();
    let begun = std::time::Instant::now();
    // The API server has answered for the token once, so that none of the burst waits for it.
    greedy.sign(csr.clone()).await.expect("the first of all");
    let burst = futures_util::future::join_all((0..REQUESTS).map(|_| greedy.sign(csr.clone())));
    let (answers, other) = tokio::join!(burst, modest.sign(csr.clone()));
    let elapsed = begun.elapsed();
    other.expect("another account is served meanwhile");
    let granted = 1 + answers.iter().filter(|answer| answer.is_ok()).count();
    let allowed = u64::from(BURST) + u64::from(RATE) * (elapsed.as_secs() + 1);
    assert!(
        granted as u64 >= u64::from(BURST) && granted as u64 <= allowed,
        "{granted} granted in {elapsed:?}"
    );
    let codes: Vec<Code> = answers
        .into_iter()
        .filter_map(Result::err)
        .map(|status| status.code())
        .collect();
    assert!(
        codes.iter().all(|code| *code == Code::ResourceExhausted),
        "only the rate refuses"
    );
    assert!(elapsed < Duration::from_mins(1), "{elapsed:?}");
}
