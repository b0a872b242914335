//! The object types of the mesh: our CRDs, Gateway API aliases, their validation.
