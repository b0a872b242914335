//! Who a bearer token stands for. One interface for both worlds: standalone mode's own tokens, and a cluster's, which its
//! API server reviews. What is decided with the answer is the core's business.

use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;
use tonic::Status;
use weft_control_plane_core::rights::Account;
use weft_identity::token::{Claims, TokenError, VerifyingKey};

use crate::config::ACCOUNT;
use crate::kubernetes::review::{ReviewError, Reviewer};

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// Whose it is.
    pub account: Account,
    /// Services of its namespace that it may register endpoints for.
    pub services: Vec<String>,
}

/// The token is not good.
#[derive(Debug, Error)]
pub enum CheckError {
    /// Refused.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Refused by the cluster, or nobody could be asked.
    #[error(transparent)]
    Review(#[from] ReviewError),
    /// The control plane's own account: whoever had its identity could speak for it to every proxy.
    #[error(
        "the token is of {0}, which is the control plane's own account, and nobody else is given its identity; use \
         another service account"
    )]
    Own(Account),
}

impl From<CheckError> for Status {
    fn from(error: CheckError) -> Self {
        let message = error.to_string();
        match error {
            CheckError::Review(ReviewError::Unavailable(_)) => Self::unavailable(message),
            CheckError::Own(_) => Self::permission_denied(message),
            _ => Self::unauthenticated(message),
        }
    }
}

/// Checks tokens.
pub enum TokenChecker {
    /// JWTs (ES256) signed by the key in the state directory, as `weft token create` makes them.
    Standalone(VerifyingKey),
    /// Tokens that the kubelet projects into Pods. They grant no Services: endpoints are the cluster's business.
    Cluster(Arc<Reviewer>),
}

impl TokenChecker {
    /// What `token` says, if it is genuine, meant for the mesh and not over, and of anybody but the control plane,
    /// which needs none.
    pub async fn check(&self, token: &str) -> Result<Bearer, CheckError> {
        let bearer = match self {
            Self::Standalone(key) => bearer(key.verify(token, SystemTime::now())?),
            Self::Cluster(reviewer) => Bearer {
                account: reviewer.check(token).await?.account,
                services: Vec::new(),
            },
        };
        if bearer.account == Account::new(ACCOUNT.0, ACCOUNT.1) {
            return Err(CheckError::Own(bearer.account));
        }
        Ok(bearer)
    }
}

fn bearer(claims: Claims) -> Bearer {
    Bearer {
        account: Account::new(&claims.namespace, &claims.service_account),
        services: claims.services,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_identity::token::{AUDIENCE, SigningKey};

    use super::*;

    fn claims() -> Claims {
        Claims {
            namespace: "shop".into(),
            service_account: "user".into(),
            audience: AUDIENCE.into(),
            services: vec!["user".into()],
            expires_at: SystemTime::now() + Duration::from_mins(1),
        }
    }

    #[tokio::test]
    async fn only_tokens_of_the_own_key_count() {
        let key = SigningKey::generate().unwrap();
        let checker = TokenChecker::Standalone(key.verifying_key());
        let bearer = checker.check(&key.sign(&claims()).unwrap()).await.unwrap();
        assert_eq!(bearer.account, Account::new("shop", "user"));
        assert_eq!(bearer.services, ["user"]);
        let other = SigningKey::generate().unwrap().sign(&claims()).unwrap();
        assert!(checker.check(&other).await.is_err());
        let stranger = key
            .sign(&Claims {
                audience: "other".into(),
                ..claims()
            })
            .unwrap();
        assert!(checker.check(&stranger).await.is_err());
    }
}
