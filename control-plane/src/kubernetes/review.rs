//! A cluster's tokens, reviewed by its API server.
//!
//! What a review means, and how long it counts, is decided in the core ([`weft_control_plane_core::review`]). An API
//! server that doesn't answer is said to be unavailable, so that clients come again; it never makes a token bad.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tokio::sync::Semaphore;
use weft_control_plane_core::review::{Answers, Bound, Digest, Refusal, Review, decide};
use weft_identity::token::AUDIENCE;

use crate::clock::{Clock, unix_now};

/// Reviews that are under way at once.
const REVIEWS_MAX: usize = 32;

/// How long a review may take, waiting for others included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a token.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// No answer was had.
#[derive(Debug, Error)]
pub enum ReviewError {
    /// The token doesn't count.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It isn't one.
    #[error("the token is no JSON web token of at most {TOKEN_BYTES_MAX} bytes")]
    NoToken,
    /// The API server didn't answer.
    #[error("the API server can't be asked about the token: {0}; try again")]
    Unavailable(String),
}

/// See the module's head.
pub struct Reviewer {
    reviews: Api<TokenReview>,
    answers: Mutex<Answers>,
    under_way: Semaphore,
    clock: Clock,
}

impl Reviewer {
    /// Asks the API server of `client`.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            answers: Mutex::default(),
            under_way: Semaphore::new(REVIEWS_MAX),
            clock: Clock::start(),
        }
    }

    /// Who bears `token`.
    pub async fn check(&self, token: &str) -> Result<Bound, ReviewError> {
        let expires = expiry(token).ok_or(ReviewError::NoToken)?;
        let digest: Digest = Sha256::digest(token).into();
        if let Some(known) = self.known(&digest) {
            return Ok(known?);
        }
        let asked = tokio::time::timeout(TIMEOUT, self.ask(token, &digest)).await;
        match asked.map_err(|_| ReviewError::Unavailable(format!("no answer in {TIMEOUT:?}")))?? {
            Asked::Known(answer) => Ok(answer?),
            Asked::Reviewed(status) => {
                let lifetime = Duration::from_secs(expires.saturating_sub(unix_now().0));
                let answer = read(&status);
                Ok(self.answers().put(digest, answer, lifetime, self.clock.now())?)
            }
        }
    }

    /// The Pod with this uid is gone: its tokens don't count any longer.
    pub fn pod_deleted(&self, uid: &str) {
        self.answers().pod_gone(uid, self.clock.now());
    }

    async fn ask(&self, token: &str, digest: &Digest) -> Result<Asked, ReviewError> {
        let unavailable = |error: &dyn ToString| ReviewError::Unavailable(error.to_string());
        let _permit = self
            .under_way
            .acquire()
            .await
            .map_err(|error| unavailable(&error))?;
        // Somebody may have asked while this one waited.
        if let Some(known) = self.known(digest) {
            return Ok(Asked::Known(known));
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let reviewed = self.reviews.create(&PostParams::default(), &review).await;
        let reviewed = reviewed.map_err(|error| unavailable(&error))?;
        reviewed
            .status
            .map(Asked::Reviewed)
            .ok_or_else(|| unavailable(&"its answer is empty"))
    }

    fn known(&self, digest: &Digest) -> Option<Result<Bound, Refusal>> {
        self.answers().get(digest, self.clock.now()).cloned()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Asked {
    Known(Result<Bound, Refusal>),
    Reviewed(TokenReviewStatus),
}

fn read(status: &TokenReviewStatus) -> Result<Bound, Refusal> {
    let user = status.user.as_ref();
    let extra = |key: &str| {
        let extra = user.and_then(|user| user.extra.as_ref());
        let values = extra.and_then(|extra| extra.get(&format!("authentication.kubernetes.io/{key}")));
        values.map(Vec::as_slice).unwrap_or_default()
    };
    let review = Review {
        authenticated: status.authenticated == Some(true),
        audiences: status.audiences.as_deref().unwrap_or_default(),
        error: status.error.as_deref(),
        username: user.and_then(|user| user.username.as_deref()).unwrap_or_default(),
        pod_name: extra("pod-name"),
        pod_uid: extra("pod-uid"),
        node_name: extra("node-name"),
    };
    decide(&review, AUDIENCE)
}

/// When a token says it expires, in seconds since 1970. Whether it says the truth is the API server's business: until
/// it has spoken this only tells what is no token at all.
fn expiry(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice::<Claims>(&claims)
        .ok()
        .map(|claims| claims.exp)
}
