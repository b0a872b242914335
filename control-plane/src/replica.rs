//! What a replica tells the others: which roots it publishes, what it signs with, and how far its proxies are. Only the
//! control plane's own identity is answered.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use weft_control_plane_core::replicas::{Report, Roots};
use weft_control_plane_core::rights::Account;
use weft_control_plane_core::status::Count;
use weft_identity::bundle::TrustBundle;
use weft_xds_proto::weft::replica_service_server::ReplicaService;
use weft_xds_proto::weft::{Count as WireCount, ObjectReport, ReportRequest, ReportResponse, RootsReport};

use crate::certificates::Issuing;
use crate::config::ACCOUNT;
use crate::peer::authenticated;
use crate::publish::{Command, Ending, Publisher, RootsTaken};

/// The service.
pub struct Replica {
    publisher: Publisher,
    issuing: Arc<Issuing>,
}

impl Replica {
    /// The service on `publisher` and `issuing`.
    pub fn new(publisher: Publisher, issuing: Arc<Issuing>) -> Self {
        Self { publisher, issuing }
    }

    async fn answer(&self, since: u64) -> Result<ReportResponse, Ending> {
        let statuses = self
            .publisher
            .ask(|answer| Command::Statuses(since, answer))
            .await?;
        let roots = own_roots(&self.publisher, &self.issuing).await?;
        let revision = statuses.as_ref().map_or(since, |statuses| statuses.revision);
        let objects = statuses.map(|statuses| statuses.objects).unwrap_or_default();
        let objects = objects.into_iter().map(|(status, count)| ObjectReport {
            object: status.object.to_string(),
            generation: status.generation,
            count: Some(to_wire(&count)),
        });
        Ok(ReportResponse {
            revision,
            roots: Some(RootsReport {
                bundle: roots.bundle,
                issuer: roots.issuer,
                count: Some(to_wire(&roots.count)),
            }),
            objects: objects.collect(),
        })
    }
}

/// The roots that this replica publishes, and how far its proxies are.
pub(crate) async fn own_roots(publisher: &Publisher, issuing: &Issuing) -> Result<Roots, Ending> {
    let issuer = issuing.authority().fingerprint().to_owned();
    let RootsTaken { roots, count } = publisher.ask(Command::Roots).await?;
    let roots = roots.iter().map(|root| root.to_vec().into()).collect();
    let bundle = TrustBundle::new(issuing.bundle().trust_domain().clone(), roots);
    Ok(Roots {
        // What is published was a bundle before.
        bundle: bundle.map(|bundle| bundle.fingerprint()).unwrap_or_default(),
        issuer,
        count,
    })
}

#[tonic::async_trait]
impl ReplicaService for Replica {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let (account, _) = authenticated(&request)?;
        if account != Account::new(ACCOUNT.0, ACCOUNT.1) {
            return Err(Status::permission_denied(
                "only replicas of the control plane are told",
            ));
        }
        let answer = self.answer(request.get_ref().since).await;
        let answer = answer.map_err(|ending| Status::unavailable(ending.to_string()))?;
        Ok(Response::new(answer))
    }
}

fn to_wire(count: &Count) -> WireCount {
    WireCount {
        proxies: count.proxies,
        confirmed: count.confirmed,
        refused: count.refused,
        refusal: count.refusal.clone().unwrap_or_default(),
    }
}

fn from_wire(count: Option<WireCount>) -> Count {
    let count = count.unwrap_or_default();
    Count {
        proxies: count.proxies,
        confirmed: count.confirmed,
        refused: count.refused,
        refusal: Some(count.refusal).filter(|refusal| !refusal.is_empty()),
    }
}

/// What a replica says, given what it said `before`: objects come along only if anything changed.
pub(crate) fn read(response: ReportResponse, changed: bool, before: &Report) -> Report {
    let roots = response.roots.unwrap_or_default();
    let objects = response.objects.into_iter();
    let objects = objects.map(|report| (report.object, (report.generation, from_wire(report.count))));
    Report {
        roots: Roots {
            bundle: roots.bundle,
            issuer: roots.issuer,
            count: from_wire(roots.count),
        },
        objects: if changed {
            objects.collect()
        } else {
            before.objects.clone()
        },
    }
}
