//! Requests that no exchange carries: to the application, and to the outside.

use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use weft_proxy_core::resource::Endpoint;
use weft_proxy_core::retry::Failure;

use super::{Bounds, Held, Speak, Upstream};
use crate::http::{Body, Upload, UploadBody};
use crate::local::Local;

/// Tries of a request that provably did not leave this proxy.
const UNSENT_TRIES: u32 = 3;

impl Upstream {
    /// As [`Upstream::send`], but again if provably nothing was processed of it: a kept connection that closes as it is
    /// taken is no failure of the other end's.
    pub async fn send_alone(
        &self,
        local: &Rc<Local>,
        endpoint: &Arc<Endpoint>,
        speak: Speak,
        bounds: &Bounds,
        head: &http::request::Parts,
        upload: &Upload,
    ) -> Result<(Response<Body>, Held), Failure> {
        let mut tries = 1;
        loop {
            let request = build(head, upload);
            match self.send(local, endpoint, speak, bounds, request).await {
                Err(Failure::Refused) if tries < UNSENT_TRIES && upload.replayable() => tries += 1,
                sent => return sent,
            }
        }
    }
}

/// The request of one try.
pub fn build(head: &http::request::Parts, upload: &Upload) -> Request<UploadBody> {
    let mut request = Request::new(upload.attempt());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    request.headers_mut().clone_from(&head.headers);
    request
}
