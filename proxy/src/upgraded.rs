//! What follows a granted upgrade: two byte streams joined, and the exchange that ends with them.

use weft_proxy_core::exchange::Event;

use crate::finish::Open;
use crate::stream::Stream;
use crate::tcp;
use crate::upstream::Own;

/// Relays between the two ends of an upgraded exchange until it is over.
pub async fn join(stream: Stream, own: Own, open: Open) {
    let Some((upstream, _place)) = own.into_upgraded().await else {
        stream.reset_on_close();
        return open.end(Event::ResponseReset);
    };
    open.end(match tcp::relay(stream, upstream).await.end {
        tcp::End::Clean => Event::ResponseEnd(None),
        tcp::End::FirstBroke => Event::DownstreamGone,
        tcp::End::SecondBroke => Event::ResponseReset,
    });
}
