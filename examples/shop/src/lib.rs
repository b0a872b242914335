//! The sample system: user, product, order, payment and inventory services.
