//! The catalogue. `GET /products`, `GET /products/{sku}`: with what is in stock, which it asks inventory over gRPC.
//!
//! Versions v1 and v2 differ in what they answer: v2 also recommends another product. When inventory doesn't answer,
//! a product is shown all the same, with `available: null`.

use http::{Method, Uri};
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

use crate::client::{CallError, Outbound};
use crate::context::Context;
use crate::message::{Asked, Reply, segments};
use crate::proto::CheckRequest;
use crate::proto::inventory_client::InventoryClient;

/// Inventory's gRPC port.
pub(crate) const INVENTORY_GRPC: &str = "inventory:81";

/// What the shop sells: sku, name, price in cents. The last is beyond what payment accepts.
pub(crate) const CATALOGUE: [(&str, &str, u32); 8] = [
    ("linen", "Linen, 1 m", 1_250),
    ("wool", "Wool, 1 m", 2_400),
    ("silk", "Silk, 1 m", 6_900),
    ("shuttle", "Boat shuttle", 3_100),
    ("reed", "Reed, 60 dents", 4_450),
    ("heddle", "Heddles, 100", 1_900),
    ("bench", "Loom bench", 18_000),
    ("loom", "Floor loom", 289_000),
];

/// A product as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) price_cents: u32,
    /// `None`: not known at the moment.
    pub(crate) available: Option<u32>,
    /// Since v2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) goes_with: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Products {
    recommends: bool,
    inventory: InventoryClient<Channel>,
}

impl Products {
    /// The channel to inventory connects when it is first used, and again when it broke.
    pub(crate) fn new(version: &str, outbound: &Outbound) -> Result<Self, CallError> {
        let address = outbound.address(INVENTORY_GRPC)?;
        let authority = Uri::builder()
            .scheme("http")
            .authority(INVENTORY_GRPC)
            .path_and_query("/")
            .build()?;
        let dialled = Uri::builder()
            .scheme("http")
            .authority(address)
            .path_and_query("/")
            .build()?;
        let channel = Endpoint::from(dialled)
            .origin(authority)
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(Self {
            recommends: version != "v1",
            inventory: InventoryClient::new(channel),
        })
    }

    pub(crate) async fn answer(&self, asked: &Asked) -> Reply {
        match (&asked.method, segments(&asked.path).as_slice()) {
            (&Method::GET, ["products"]) => {
                let all = (0..CATALOGUE.len()).map(|n| self.product(n, None));
                Reply::ok(&all.collect::<Vec<_>>())
            }
            (&Method::GET, ["products", sku]) => {
                let Some(n) = CATALOGUE.iter().position(|(known, ..)| known == sku) else {
                    return Reply::not_found();
                };
                let available = self.available(sku, &asked.context).await;
                Reply::ok(&self.product(n, available))
            }
            _ => Reply::not_found(),
        }
    }

    async fn available(&self, sku: &str, context: &Context) -> Option<u32> {
        let mut request = tonic::Request::from_parts(
            tonic::metadata::MetadataMap::from_headers(context.headers().collect()),
            tonic::Extensions::default(),
            CheckRequest { sku: sku.to_owned() },
        );
        request.set_timeout(std::time::Duration::from_secs(5));
        match self.inventory.clone().check(request).await {
            Ok(response) => Some(response.into_inner().available),
            Err(status) => {
                tracing::warn!(sku, %status, "inventory doesn't say what is in stock");
                None
            }
        }
    }

    fn product(&self, n: usize, available: Option<u32>) -> Product {
        let (sku, name, price_cents) = CATALOGUE[n];
        let other = CATALOGUE[(n + 1) % CATALOGUE.len()].0;
        Product {
            sku: sku.to_owned(),
            name: name.to_owned(),
            price_cents,
            available,
            goes_with: self.recommends.then(|| other.to_owned()),
        }
    }
}
