//! The numbers of `nf_tables`' messages, as `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and
//! `linux/netfilter/nf_tables.h` have them.

/// `NFNL_SUBSYS_NFTABLES`, the upper half of a message's kind.
pub(crate) const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`, IPv4 and IPv6 in one table.
pub(crate) const INET: u8 = 1;
/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// Kinds of message.
pub(crate) mod kind {
    /// `NFNL_MSG_BATCH_BEGIN`.
    pub(crate) const BEGIN: u16 = 0x10;
    /// `NFNL_MSG_BATCH_END`.
    pub(crate) const END: u16 = 0x11;
    /// `NFT_MSG_NEWTABLE`.
    pub(crate) const NEW_TABLE: u16 = 0;
    /// `NFT_MSG_DELTABLE`.
    pub(crate) const DELETE_TABLE: u16 = 2;
    /// `NFT_MSG_NEWCHAIN`.
    pub(crate) const NEW_CHAIN: u16 = 3;
    /// `NFT_MSG_GETCHAIN`.
    pub(crate) const GET_CHAIN: u16 = 4;
    /// `NFT_MSG_NEWRULE`.
    pub(crate) const NEW_RULE: u16 = 6;
    /// `NFT_MSG_GETRULE`.
    pub(crate) const GET_RULE: u16 = 7;
    /// `NLMSG_ERROR`: an answer, good or bad.
    pub(crate) const ANSWER: u16 = 2;
    /// `NLMSG_DONE`: the last message of several.
    pub(crate) const DONE: u16 = 3;
}

/// Attributes.
pub(crate) mod attribute {
    /// `NFTA_TABLE_NAME`.
    pub(crate) const TABLE_NAME: u16 = 1;
    /// `NFTA_CHAIN_TABLE`.
    pub(crate) const CHAIN_TABLE: u16 = 1;
    /// `NFTA_CHAIN_NAME`.
    pub(crate) const CHAIN_NAME: u16 = 3;
    /// `NFTA_CHAIN_HOOK`.
    pub(crate) const CHAIN_HOOK: u16 = 4;
    /// `NFTA_CHAIN_POLICY`.
    pub(crate) const CHAIN_POLICY: u16 = 5;
    /// `NFTA_CHAIN_TYPE`.
    pub(crate) const CHAIN_TYPE: u16 = 7;
    /// `NFTA_HOOK_HOOKNUM`.
    pub(crate) const HOOK_NUMBER: u16 = 1;
    /// `NFTA_HOOK_PRIORITY`.
    pub(crate) const HOOK_PRIORITY: u16 = 2;
    /// `NFTA_RULE_TABLE`.
    pub(crate) const RULE_TABLE: u16 = 1;
    /// `NFTA_RULE_CHAIN`.
    pub(crate) const RULE_CHAIN: u16 = 2;
    /// `NFTA_RULE_EXPRESSIONS`.
    pub(crate) const RULE_EXPRESSIONS: u16 = 4;
    /// `NFTA_LIST_ELEM`.
    pub(crate) const ELEMENT: u16 = 1;
    /// `NFTA_EXPR_NAME`.
    pub(crate) const EXPRESSION_NAME: u16 = 1;
    /// `NFTA_EXPR_DATA`.
    pub(crate) const EXPRESSION_DATA: u16 = 2;
    /// `NFTA_META_DREG`, `NFTA_CT_DREG`.
    pub(crate) const LOAD_REGISTER: u16 = 1;
    /// `NFTA_META_KEY`, `NFTA_CT_KEY`.
    pub(crate) const LOAD_KEY: u16 = 2;
    /// `NFTA_CMP_SREG`.
    pub(crate) const COMPARE_REGISTER: u16 = 1;
    /// `NFTA_CMP_OP`.
    pub(crate) const COMPARE_OPERATION: u16 = 2;
    /// `NFTA_CMP_DATA`.
    pub(crate) const COMPARE_DATA: u16 = 3;
    /// `NFTA_PAYLOAD_DREG`.
    pub(crate) const PAYLOAD_REGISTER: u16 = 1;
    /// `NFTA_PAYLOAD_BASE`.
    pub(crate) const PAYLOAD_BASE: u16 = 2;
    /// `NFTA_PAYLOAD_OFFSET`.
    pub(crate) const PAYLOAD_OFFSET: u16 = 3;
    /// `NFTA_PAYLOAD_LEN`.
    pub(crate) const PAYLOAD_LENGTH: u16 = 4;
    /// `NFTA_BITWISE_SREG`.
    pub(crate) const BITWISE_SOURCE: u16 = 1;
    /// `NFTA_BITWISE_DREG`.
    pub(crate) const BITWISE_REGISTER: u16 = 2;
    /// `NFTA_BITWISE_LEN`.
    pub(crate) const BITWISE_LENGTH: u16 = 3;
    /// `NFTA_BITWISE_MASK`.
    pub(crate) const BITWISE_MASK: u16 = 4;
    /// `NFTA_BITWISE_XOR`.
    pub(crate) const BITWISE_XOR: u16 = 5;
    /// `NFTA_IMMEDIATE_DREG`.
    pub(crate) const IMMEDIATE_REGISTER: u16 = 1;
    /// `NFTA_IMMEDIATE_DATA`.
    pub(crate) const IMMEDIATE_DATA: u16 = 2;
    /// `NFTA_DATA_VALUE`.
    pub(crate) const DATA_VALUE: u16 = 1;
    /// `NFTA_DATA_VERDICT`.
    pub(crate) const DATA_VERDICT: u16 = 2;
    /// `NFTA_VERDICT_CODE`.
    pub(crate) const VERDICT_CODE: u16 = 1;
    /// `NFTA_VERDICT_CHAIN`.
    pub(crate) const VERDICT_CHAIN: u16 = 2;
    /// `NFTA_REDIR_REG_PROTO_MIN`.
    pub(crate) const REDIRECT_PORT: u16 = 1;
    /// `NFTA_REDIR_FLAGS`.
    pub(crate) const REDIRECT_FLAGS: u16 = 3;
    /// `NFTA_REJECT_TYPE`.
    pub(crate) const REJECT_TYPE: u16 = 1;
    /// `NFTA_REJECT_ICMP_CODE`.
    pub(crate) const REJECT_CODE: u16 = 2;
}

/// Values.
pub(crate) mod value {
    /// `NFT_REG_1`.
    pub(crate) const REGISTER: u32 = 1;
    /// `NFT_REG_VERDICT`.
    pub(crate) const VERDICT_REGISTER: u32 = 0;
    /// `NF_ACCEPT`.
    pub(crate) const ACCEPT: u32 = 1;
    /// `NFT_GOTO`, -4.
    pub(crate) const GOTO: u32 = 0u32.wrapping_sub(4);
    /// `NFT_CMP_EQ`.
    pub(crate) const EQUAL: u32 = 0;
    /// `NFT_CMP_NEQ`.
    pub(crate) const NOT_EQUAL: u32 = 1;
    /// `NFT_CMP_LTE`.
    pub(crate) const AT_MOST: u32 = 3;
    /// `NFT_CMP_GTE`.
    pub(crate) const AT_LEAST: u32 = 5;
    /// `NFT_META_PRIORITY`.
    pub(crate) const PRIORITY: u32 = 2;
    /// `NFT_META_IIF`.
    pub(crate) const IN_INTERFACE: u32 = 4;
    /// `NFT_META_OIF`.
    pub(crate) const OUT_INTERFACE: u32 = 5;
    /// `NFT_META_SKUID`.
    pub(crate) const UID: u32 = 10;
    /// `NFT_META_NFPROTO`.
    pub(crate) const FAMILY: u32 = 15;
    /// `NFT_META_L4PROTO`.
    pub(crate) const PROTOCOL: u32 = 16;
    /// `LOOPBACK_IFINDEX`: the first interface of every network namespace.
    pub(crate) const LOOPBACK: u32 = 1;
    /// `NFPROTO_IPV4`.
    pub(crate) const IPV4: u8 = 2;
    /// `NFPROTO_IPV6`.
    pub(crate) const IPV6: u8 = 10;
    /// `IPPROTO_TCP`.
    pub(crate) const TCP: u8 = 6;
    /// `NFT_PAYLOAD_NETWORK_HEADER`.
    pub(crate) const NETWORK_HEADER: u32 = 1;
    /// `NFT_PAYLOAD_TRANSPORT_HEADER`.
    pub(crate) const TRANSPORT_HEADER: u32 = 2;
    /// Where the destination is in an IPv4 header.
    pub(crate) const IPV4_DESTINATION: u32 = 16;
    /// Where the destination is in an IPv6 header.
    pub(crate) const IPV6_DESTINATION: u32 = 24;
    /// Where the destination port is in a TCP header.
    pub(crate) const PORT: u32 = 2;
    /// `NFT_CT_STATUS`.
    pub(crate) const STATUS: u32 = 2;
    /// `IPS_DST_NAT`.
    pub(crate) const REDIRECTED: u32 = 1 << 5;
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`.
    pub(crate) const PORT_GIVEN: u32 = 2;
    /// `NFT_REJECT_TCP_RST`.
    pub(crate) const RESET: u32 = 1;
    /// `NF_INET_PRE_ROUTING`.
    pub(crate) const PREROUTING: u32 = 0;
    /// `NF_INET_LOCAL_IN`.
    pub(crate) const INPUT: u32 = 1;
    /// `NF_INET_LOCAL_OUT`.
    pub(crate) const OUTPUT: u32 = 3;
}
