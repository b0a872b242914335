//! Orders: a saga over four services.
//!
//! `POST /orders {user, sku, quantity}` asks user and product, reserves the goods, takes the payment, sells the
//! goods, and publishes what became of it. There is no transaction over the services: what was done is undone
//! step by step when a later step fails. A declined payment (402) returns the goods; a payment of which nothing is
//! known is voided too. What undoes may be said twice (DELETE), so the mesh may retry it; what does may not (POST).
//! The order's id is the request's id. `GET /orders/{id}` tells what became of it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::{Answer, Call, CallError, Client};
use crate::context::Context;
use crate::events::{OrderEvent, Outcome, Publisher};
use crate::inventory::Reservation;
use crate::ledger::Ledger;
use crate::message::{Asked, Reply, problem};
use crate::payment::NewPayment;
use crate::product::Product;
use crate::recent::Recent;

const PREFIX: &str = "/orders/";

#[derive(Clone, Debug, Deserialize)]
struct NewOrder {
    user: u32,
    sku: String,
    quantity: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    id: String,
    user: u32,
    sku: String,
    quantity: u32,
    outcome: Outcome,
}

#[derive(Debug)]
struct Book {
    ledger: Ledger<Order>,
    orders: Recent<Order>,
}

/// A step that failed, and what the customer is told.
#[derive(Debug)]
struct Refusal {
    outcome: Outcome,
    status: StatusCode,
    why: String,
}

impl Refusal {
    fn failed(why: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Failed,
            status: StatusCode::BAD_GATEWAY,
            why: why.into(),
        }
    }

    /// The customer asked for what doesn't exist.
    fn invalid(why: impl Into<String>) -> Self {
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            ..Self::failed(why)
        }
    }
}

impl From<CallError> for Refusal {
    fn from(error: CallError) -> Self {
        Self::failed(error.to_string())
    }
}

#[derive(Debug)]
pub(crate) struct Orders {
    client: Arc<Client>,
    events: Option<Publisher>,
    book: Mutex<Book>,
}

impl Orders {
    pub(crate) fn open(
        ledger: Option<&Path>,
        client: Arc<Client>,
        events: Option<Publisher>,
    ) -> io::Result<Self> {
        let ledger = Ledger::open(ledger)?;
        let orders = Recent::default();
        let book = Mutex::new(Book { ledger, orders });
        Ok(Self { client, events, book })
    }

    pub(crate) async fn answer(&self, asked: &Asked) -> Reply {
        match (&asked.method, asked.path.strip_prefix(PREFIX)) {
            (&Method::POST, None) if asked.path == "/orders" => match asked.json::<NewOrder>() {
                Ok(order) => self.place(order, &asked.context).await,
                Err(reply) => reply,
            },
            (&Method::GET, Some(id)) => self.show(id),
            _ => Reply::not_found(),
        }
    }

    async fn place(&self, new: NewOrder, context: &Context) -> Reply {
        let result = self.run(&new, context).await;
        let order = Order {
            id: context.id.clone(),
            user: new.user,
            sku: new.sku,
            quantity: new.quantity,
            outcome: result
                .as_ref()
                .err()
                .map_or(Outcome::Placed, |refusal| refusal.outcome),
        };
        self.publish(&order);
        if let Err(error) = self.keep(Some(order.clone())) {
            return Reply::failed(&error);
        }
        match result {
            Ok(()) => Reply::new(StatusCode::CREATED, &order),
            Err(Refusal { status, why, .. }) => Reply::new(
                status,
                &json!({ "error": why, "order": order.id, "outcome": order.outcome }),
            ),
        }
    }

    /// The saga.
    async fn run(&self, new: &NewOrder, context: &Context) -> Result<(), Refusal> {
        let product = self.check(new, context).await?;
        self.reserve(new, context).await?;
        let amount_cents = product.price_cents.saturating_mul(new.quantity);
        if let Err(refusal) = self.pay(new.user, amount_cents, context).await {
            self.undo(&refusal, context).await;
            return Err(refusal);
        }
        let path = reservation_path(context);
        let sold = self.call(Method::PUT, "inventory", &path, None, context);
        match sold.await {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(Refusal::failed(format!("inventory answered {}", answer.status))),
            Err(error) => Err(error.into()),
        }
    }

    /// Are there such a user and such a product?
    async fn check(&self, new: &NewOrder, context: &Context) -> Result<Product, Refusal> {
        let path = format!("/users/{}", new.user);
        let user = self.call(Method::GET, "user", &path, None, context).await?;
        match user.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Err(Refusal::invalid("no such user")),
            status => return Err(Refusal::failed(format!("user answered {status}"))),
        }
        let path = format!("/products/{}", new.sku);
        let product = self.call(Method::GET, "product", &path, None, context).await?;
        match product.status {
            StatusCode::OK => Ok(product.json()?),
            StatusCode::NOT_FOUND => Err(Refusal::invalid("no such product")),
            status => Err(Refusal::failed(format!("product answered {status}"))),
        }
    }

    async fn reserve(&self, new: &NewOrder, context: &Context) -> Result<(), Refusal> {
        let wanted = json!(Reservation {
            order: context.id.clone(),
            sku: new.sku.clone(),
            quantity: new.quantity,
        });
        let step = context.step("reserve");
        let result = self
            .call(Method::POST, "inventory", "/reservations", Some(wanted), &step)
            .await;
        let refusal = match result {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            Ok(answer) if answer.status == StatusCode::CONFLICT => {
                return Err(Refusal {
                    outcome: Outcome::SoldOut,
                    status: StatusCode::CONFLICT,
                    why: "not enough in stock".into(),
                });
            }
            Ok(answer) => Refusal::failed(format!("inventory answered {}", answer.status)),
            Err(error) => error.into(),
        };
        self.give_back(context).await;
        Err(refusal)
    }

    async fn pay(&self, user: u32, amount_cents: u32, context: &Context) -> Result<(), Refusal> {
        let payment = json!(NewPayment {
            order: context.id.clone(),
            user,
            amount_cents,
        });
        let step = context.step("pay");
        let answer = self
            .call(Method::POST, "payment", "/payments", Some(payment), &step)
            .await?;
        match answer.status {
            StatusCode::CREATED => Ok(()),
            StatusCode::PAYMENT_REQUIRED => Err(Refusal {
                outcome: Outcome::Declined,
                status: StatusCode::PAYMENT_REQUIRED,
                why: "the payment was declined".into(),
            }),
            status => Err(Refusal::failed(format!("payment answered {status}"))),
        }
    }

    /// Undoes what was done before the payment, and the payment itself unless it is known not to have happened.
    async fn undo(&self, refusal: &Refusal, context: &Context) {
        if refusal.outcome != Outcome::Declined {
            let path = format!("/payments/{}", context.id);
            let voided = self.call(Method::DELETE, "payment", &path, None, context);
            report("a payment can't be voided", &context.id, voided.await);
        }
        self.give_back(context).await;
    }

    async fn give_back(&self, context: &Context) {
        let path = reservation_path(context);
        let returned = self.call(Method::DELETE, "inventory", &path, None, context);
        report("goods can't be returned", &context.id, returned.await);
    }

    async fn call(
        &self,
        method: Method,
        authority: &str,
        path: &str,
        body: Option<Value>,
        context: &Context,
    ) -> Result<Answer, CallError> {
        let call = Call {
            method,
            authority,
            path,
            body,
            context,
        };
        self.client.call(call).await
    }

    fn publish(&self, order: &Order) {
        if let Some(events) = &self.events {
            events.publish(&OrderEvent {
                order: order.id.clone(),
                user: order.user,
                outcome: order.outcome,
            });
        }
    }

    fn show(&self, id: &str) -> Reply {
        if let Err(error) = self.keep(None) {
            return Reply::failed(&error);
        }
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.orders.get(id).map_or_else(
            || Reply::new(StatusCode::NOT_FOUND, &problem("no such order")),
            Reply::ok,
        )
    }

    /// Takes over the other replicas' orders, and writes one of its own.
    fn keep(&self, order: Option<Order>) -> io::Result<()> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Book { ledger, orders } = &mut *book;
        let mut locked = ledger.lock()?;
        let news = locked.news()?;
        if let Some(order) = &order {
            locked.append(order)?;
        }
        for order in news.into_iter().chain(order) {
            orders.insert(&order.id.clone(), order);
        }
        Ok(())
    }
}

fn reservation_path(context: &Context) -> String {
    format!("/reservations/{}", context.id)
}

/// A failed compensation can only be told to people: the order's answer doesn't depend on it.
fn report(what: &'static str, order: &str, result: Result<Answer, CallError>) {
    match result {
        Ok(answer) if answer.status.is_success() => {}
        Ok(answer) => tracing::error!(order, status = %answer.status, "{what}"),
        Err(error) => tracing::error!(order, %error, "{what}"),
    }
}
