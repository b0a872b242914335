//! Counters that alerts look at.

/// Lets counters stand at zero before there is anything to count: to Prometheus one that appears with its first event has
/// not increased, and an alert on it stays silent.
pub fn begin_at_zero() {
    for result in ["issued", "refused"] {
        metrics::counter!("weft_control_plane_certificates_total", "result" => result).increment(0);
    }
    metrics::counter!("weft_control_plane_connections_refused_total").increment(0);
    metrics::counter!("weft_control_plane_rejections_total").increment(0);
}
