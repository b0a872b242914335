//! The trust bundle: the roots that peers are checked against.

use std::sync::Arc;

use super::Context;

/// The bundle of this name: there is one, the mesh's own.
pub fn translate(context: &mut Context<'_>, name: &str) -> Option<Vec<Arc<[u8]>>> {
    if *name != *context.settings.trust_bundle() {
        return None;
    }
    context.world.trust().map(|roots| roots.to_vec())
}
