//! The five services behind one type, as the server calls them.

use crate::inventory::Inventory;
use crate::message::{Asked, Reply};
use crate::order::Orders;
use crate::payment::Payments;
use crate::product::Products;
use crate::user::Users;

/// One of the five.
#[derive(Debug)]
pub(crate) enum Application {
    User(Users),
    Product(Products),
    Order(Orders),
    Payment(Payments),
    Inventory(Inventory),
}

impl Application {
    pub(crate) async fn answer(&self, asked: &Asked) -> Reply {
        match self {
            Self::User(users) => users.answer(asked),
            Self::Product(products) => products.answer(asked).await,
            Self::Order(orders) => orders.answer(asked).await,
            Self::Payment(payments) => payments.answer(asked),
            Self::Inventory(inventory) => inventory.answer(asked),
        }
    }
}
