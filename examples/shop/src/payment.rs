//! Payments. `POST /payments` takes one, or declines it with 402; `DELETE /payments/{order}` voids one and may be
//! said twice; `GET /payments/{order}` tells its state.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::message::{Asked, Reply, problem};
use crate::recent::Recent;

/// A payment above this is declined, in cents.
const CREDIT_CENTS: u32 = 200_000;

const PREFIX: &str = "/payments/";

/// What is to be paid.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NewPayment {
    pub(crate) order: String,
    pub(crate) user: u32,
    pub(crate) amount_cents: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Taken,
    Declined,
    Voided,
}

#[derive(Debug, Serialize, Deserialize)]
struct Change {
    order: String,
    state: State,
}

#[derive(Debug)]
struct Book {
    ledger: Ledger<Change>,
    states: Recent<State>,
}

#[derive(Debug)]
pub(crate) struct Payments {
    book: Mutex<Book>,
}

impl Payments {
    pub(crate) fn open(ledger: Option<&Path>) -> io::Result<Self> {
        let ledger = Ledger::open(ledger)?;
        let states = Recent::default();
        Ok(Self {
            book: Mutex::new(Book { ledger, states }),
        })
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let order = asked.path.strip_prefix(PREFIX);
        match (&asked.method, asked.path.as_str(), order) {
            (&Method::POST, "/payments", _) => match asked.json::<NewPayment>() {
                Ok(payment) => self.take(payment),
                Err(reply) => reply,
            },
            (&Method::DELETE, _, Some(order)) => self.void(order),
            (&Method::GET, _, Some(order)) => self.show(order),
            _ => Reply::not_found(),
        }
    }

    fn take(&self, payment: NewPayment) -> Reply {
        let (state, reply) = if payment.amount_cents > CREDIT_CENTS {
            let why = problem(format!(
                "{} cents are more than user {} can pay",
                payment.amount_cents, payment.user
            ));
            (State::Declined, Reply::new(StatusCode::PAYMENT_REQUIRED, &why))
        } else {
            (State::Taken, Reply::new(StatusCode::CREATED, &payment))
        };
        let order = payment.order;
        self.change(Change { order, state })
            .map_or_else(|error| Reply::failed(&error), |()| reply)
    }

    fn void(&self, order: &str) -> Reply {
        let order = order.to_owned();
        let state = State::Voided;
        self.change(Change { order, state }).map_or_else(
            |error| Reply::failed(&error),
            |()| Reply::empty(StatusCode::NO_CONTENT),
        )
    }

    fn show(&self, order: &str) -> Reply {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        match book.change(None) {
            Ok(()) => match book.states.get(order) {
                Some(state) => Reply::ok(state),
                None => Reply::not_found(),
            },
            Err(error) => Reply::failed(&error),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .change(Some(change))
    }
}

impl Book {
    /// Takes over what others changed, and makes a change of its own.
    fn change(&mut self, change: Option<Change>) -> io::Result<()> {
        let mut locked = self.ledger.lock()?;
        let news = locked.news()?;
        if let Some(change) = &change {
            locked.append(change)?;
        }
        drop(locked);
        for change in news.into_iter().chain(change) {
            self.states.insert(&change.order, change.state);
        }
        Ok(())
    }
}
