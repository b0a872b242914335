//! Manifests that several tests share.

/// Namespace `shop` with Services `user` and `cart` (HTTP/1), `stock` (h2c) and `queue` (TCP).
pub(crate) const SERVICES: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: user, namespace: shop}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: shop}
spec:
  ports: [{name: h2, port: 80, appProtocol: kubernetes.io/h2c}]
---
apiVersion: v1
kind: Service
metadata: {name: queue, namespace: shop}
spec:
  ports: [{name: tcp, port: 1883, appProtocol: tcp}]
";

/// An HTTPRoute of Service `user` that gives `first` and `second` percent to `user` and `cart`.
pub(crate) fn split(user: u32, cart: u32) -> String {
    format!(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: user}}]
  rules:
  - backendRefs:
    - {{name: user, port: 80, weight: {user}}}
    - {{name: cart, port: 80, weight: {cart}}}
"
    )
}
