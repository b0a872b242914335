//! Stock and reservations, over HTTP and gRPC.
//!
//! `GET|PUT /stock/{sku}`; `POST /reservations` takes goods out of stock, or says 409; `DELETE /reservations/{order}`
//! returns them; `PUT /reservations/{order}` sells them. The last two may be said twice. The replicas share one
//! [`Ledger`]: goods that one of them reserved can be returned by another, and can't be sold by both.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tonic::{Request, Response, Status};

use crate::ledger::Ledger;
use crate::message::{Asked, Reply, problem, segments};
use crate::product::CATALOGUE;
use crate::proto::inventory_server;
use crate::proto::{CheckRequest, CheckResponse};

/// What is in stock of each product in the beginning.
pub const INITIAL_STOCK: u32 = 1_000;

/// Goods for an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Reservation {
    pub(crate) order: String,
    pub(crate) sku: String,
    pub(crate) quantity: u32,
}

#[derive(Debug, Deserialize)]
struct Level {
    available: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Stocked { sku: String, available: u32 },
    Reserved(Reservation),
    Returned { order: String },
    Sold { order: String },
}

/// What the changes so far add up to.
#[derive(Debug)]
struct Stock {
    available: HashMap<String, u32>,
    reserved: HashMap<String, Reservation>,
}

impl Default for Stock {
    fn default() -> Self {
        let all = CATALOGUE.iter();
        Self {
            available: all.map(|(sku, ..)| ((*sku).to_owned(), INITIAL_STOCK)).collect(),
            reserved: HashMap::new(),
        }
    }
}

impl Stock {
    fn apply(&mut self, change: Change) {
        match change {
            Change::Stocked { sku, available } => {
                self.available.insert(sku, available);
            }
            Change::Reserved(reservation) => {
                if let Some(available) = self.available.get_mut(&reservation.sku) {
                    *available = available.saturating_sub(reservation.quantity);
                }
                self.reserved.insert(reservation.order.clone(), reservation);
            }
            Change::Returned { order } => {
                if let Some(Reservation { sku, quantity, .. }) = self.reserved.remove(&order)
                    && let Some(available) = self.available.get_mut(&sku)
                {
                    *available = available.saturating_add(quantity);
                }
            }
            Change::Sold { order } => {
                self.reserved.remove(&order);
            }
        }
    }

    /// What `change` would do that can't be done, as an answer.
    fn objection(&self, change: &Change) -> Option<Reply> {
        match change {
            Change::Stocked { sku, .. } if !self.available.contains_key(sku) => Some(Reply::not_found()),
            Change::Reserved(wanted) => match self.available.get(&wanted.sku) {
                None => Some(Reply::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    &problem("no such product"),
                )),
                Some(_) if self.reserved.contains_key(&wanted.order) => Some(Reply::ok(wanted)),
                Some(available) if *available < wanted.quantity => Some(Reply::new(
                    StatusCode::CONFLICT,
                    &problem(format!("{available} are left")),
                )),
                Some(_) => None,
            },
            Change::Returned { order } | Change::Sold { order } if !self.reserved.contains_key(order) => {
                Some(Reply::empty(StatusCode::NO_CONTENT))
            }
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Books {
    ledger: Ledger<Change>,
    stock: Stock,
}

/// The service. Its clones share everything.
#[derive(Clone, Debug)]
pub struct Inventory {
    books: Arc<Mutex<Books>>,
}

impl Inventory {
    pub(crate) fn open(ledger: Option<&Path>) -> io::Result<Self> {
        let ledger = Ledger::open(ledger)?;
        let stock = Stock::default();
        Ok(Self {
            books: Arc::new(Mutex::new(Books { ledger, stock })),
        })
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let order = asked.path.strip_prefix("/reservations/").map(str::to_owned);
        let result = match (&asked.method, segments(&asked.path).as_slice(), order) {
            (&Method::GET, ["stock", sku], _) => self.show(sku),
            (&Method::PUT, ["stock", sku], _) => match asked.json::<Level>() {
                Ok(Level { available }) => {
                    let sku = (*sku).to_owned();
                    let reply = Reply::ok(&json!({ "sku": sku, "available": available }));
                    self.change(Change::Stocked { sku, available }, reply)
                }
                Err(reply) => Ok(reply),
            },
            (&Method::POST, ["reservations"], _) => match asked.json::<Reservation>() {
                Ok(wanted) => {
                    let reply = Reply::new(StatusCode::CREATED, &wanted);
                    self.change(Change::Reserved(wanted), reply)
                }
                Err(reply) => Ok(reply),
            },
            (&Method::DELETE, _, Some(order)) => {
                self.change(Change::Returned { order }, Reply::empty(StatusCode::NO_CONTENT))
            }
            (&Method::PUT, _, Some(order)) => {
                self.change(Change::Sold { order }, Reply::empty(StatusCode::NO_CONTENT))
            }
            _ => Ok(Reply::not_found()),
        };
        result.unwrap_or_else(|error| Reply::failed(&error))
    }

    fn show(&self, sku: &str) -> io::Result<Reply> {
        Ok(match self.available(sku)? {
            Some(available) => Reply::ok(&json!({ "sku": sku, "available": available })),
            None => Reply::not_found(),
        })
    }

    fn available(&self, sku: &str) -> io::Result<Option<u32>> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { ledger, stock } = &mut *books;
        let news = ledger.lock()?.news()?;
        for change in news {
            stock.apply(change);
        }
        Ok(stock.available.get(sku).copied())
    }

    /// Makes the change and answers `done`, unless there is an objection.
    fn change(&self, change: Change, done: Reply) -> io::Result<Reply> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let Books { ledger, stock } = &mut *books;
        let mut locked = ledger.lock()?;
        locked.news()?.into_iter().for_each(|change| stock.apply(change));
        if let Some(objection) = stock.objection(&change) {
            return Ok(objection);
        }
        locked.append(&change)?;
        stock.apply(change);
        Ok(done)
    }
}

#[tonic::async_trait]
impl inventory_server::Inventory for Inventory {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let available = self
            .available(&request.into_inner().sku)
            .map_err(|error| Status::unavailable(format!("the stock can't be read: {error}")))?;
        Ok(Response::new(CheckResponse {
            available: available.unwrap_or(0),
        }))
    }
}
