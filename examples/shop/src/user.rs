//! Users, and what they heard of their orders.
//!
//! `GET /users/{1..=100}`, `PUT /users/{id}` (a new name), `POST /users/{id}/visits`, `GET /users/{id}/events`. Names
//! are shared by the replicas; each replica subscribes to the broker and hears of every order.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::events::Heard;
use crate::ledger::Ledger;
use crate::message::{Asked, Reply, segments};

/// Users have the ids 1 to this.
pub(crate) const USERS: u32 = 100;

#[derive(Debug, Serialize, Deserialize)]
struct Renamed {
    user: u32,
    name: String,
}

#[derive(Debug, Deserialize)]
struct NewName {
    name: String,
}

#[derive(Debug)]
struct Names {
    ledger: Ledger<Renamed>,
    by_user: BTreeMap<u32, String>,
}

#[derive(Debug)]
pub(crate) struct Users {
    names: Mutex<Names>,
    heard: Heard,
}

impl Users {
    pub(crate) fn open(ledger: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            names: Mutex::new(Names {
                ledger: Ledger::open(ledger)?,
                by_user: BTreeMap::new(),
            }),
            heard: Heard::default(),
        })
    }

    /// Where [`crate::events::listen`] puts what it hears.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Reply {
        let path = segments(&asked.path);
        let Some(user) = path
            .get(1)
            .and_then(|id| id.parse().ok())
            .filter(|id| path[0] == "users" && (1..=USERS).contains(id))
        else {
            return Reply::not_found();
        };
        match (&asked.method, &path[2..]) {
            (&Method::GET, []) => self.show(user),
            (&Method::PUT, []) => match asked.json::<NewName>() {
                Ok(new) => self.rename(user, new.name),
                Err(reply) => reply,
            },
            (&Method::POST, ["visits"]) => Reply::new(StatusCode::CREATED, &json!({ "user": user })),
            (&Method::GET, ["events"]) => self.events(user),
            _ => Reply::not_found(),
        }
    }

    fn show(&self, user: u32) -> Reply {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = names.catch_up() {
            return Reply::failed(&error);
        }
        let name = names
            .by_user
            .get(&user)
            .cloned()
            .unwrap_or_else(|| format!("user {user}"));
        Reply::ok(&json!({ "id": user, "name": name }))
    }

    fn rename(&self, user: u32, name: String) -> Reply {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.rename(Renamed { user, name }) {
            Ok(()) => Reply::ok(&json!({ "id": user, "name": names.by_user[&user] })),
            Err(error) => Reply::failed(&error),
        }
    }

    fn events(&self, user: u32) -> Reply {
        Reply::ok(&self.heard.of(user))
    }
}

impl Names {
    fn catch_up(&mut self) -> io::Result<()> {
        let news = self.ledger.lock()?.news()?;
        self.by_user
            .extend(news.into_iter().map(|renamed| (renamed.user, renamed.name)));
        Ok(())
    }

    fn rename(&mut self, renamed: Renamed) -> io::Result<()> {
        let mut locked = self.ledger.lock()?;
        let news = locked.news()?;
        locked.append(&renamed)?;
        drop(locked);
        for renamed in news.into_iter().chain([renamed]) {
            self.by_user.insert(renamed.user, renamed.name);
        }
        Ok(())
    }
}
