//! The words that tables and requests are made of: few, and close to one another.

use crate::differential::tables::Pattern;

/// Whole paths.
pub(super) const PATHS: [&str; 8] =
    ["/", "/item", "/v1/item", "/v1", "/api/a", "/old/page.html", "/Caps/Path", "/a;p=1/b"];

/// Beginnings of paths.
pub(super) const PREFIXES: [&str; 8] = ["/", "/v1", "/v1/", "/api", "/api/", "/old", "/it", "/Caps/"];

/// Paths that no rule is written for, and ends of those that some are.
pub(super) const STRAYS: [&str; 8] =
    ["/nothing", "/v", "/v10/x", "/V1/item", "/ap", "/item/", "/caps/path", "/old"];

/// Targets that have more to them than letters, which both proxies leave alone.
pub(super) const ODD_TARGETS: [&str; 8] = [
    "/v1/a:b@c!$&'()*+,=",
    "/v1/caf%C3%A9",
    "/api/%20x%25",
    "/v1/item?q=%2f..%2e//&c",
    "/?",
    "/v1/item?a?b",
    "/a;p=1/b?q",
    "/v1/...",
];

pub(super) static PATH_PATTERNS: [Pattern; 6] = [
    Pattern { regex: "/v[0-9]+/.*", hits: &["/v1/x", "/v22/"], misses: &["/v/x", "/vx/1", "/v1"] },
    Pattern { regex: "/api/(a|b)", hits: &["/api/a", "/api/b"], misses: &["/api/c", "/api/ab", "/api/"] },
    Pattern {
        regex: "^/old/[a-z]{2,4}$",
        hits: &["/old/ab", "/old/abcd"],
        misses: &["/old/a", "/old/abcde"],
    },
    Pattern { regex: r".*\.html", hits: &["/a.html", "/old/page.html"], misses: &["/a.htm", "/ahtml"] },
    Pattern { regex: "(?i)/CAPS.*", hits: &["/caps", "/Caps/x"], misses: &["/cap", "/x/caps"] },
    Pattern { regex: "/item|/item/.+", hits: &["/item", "/item/1"], misses: &["/item/", "/items"] },
];

/// Whole methods.
pub(super) const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "OPTIONS"];

pub(super) static METHOD_PATTERNS: [Pattern; 2] = [
    Pattern { regex: "GET|HEAD", hits: &["GET", "HEAD"], misses: &["POST", "DELETE"] },
    Pattern { regex: "P.*", hits: &["POST", "PUT"], misses: &["GET", "OPTIONS"] },
];

/// Methods as requests have them.
pub(super) const EVERY_METHOD: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// Authorities that are not the service's own.
pub(super) const AUTHORITIES: [&str; 3] = ["www.example.com", "www.example.com:80", "10.1.2.3"];

pub(super) static AUTHORITY_PATTERNS: [Pattern; 2] = [
    Pattern { regex: r"www\..*", hits: &["www.example.com", "www.a:81"], misses: &["ww.example.com"] },
    Pattern { regex: r"[^:]*(:8[01])", hits: &["a.shop:80", "b:81"], misses: &["a.shop", "a.shop:8080"] },
];

/// Headers that rules ask for.
pub(super) const NAMES: [&str; 4] = ["x-user", "x-env", "cookie", "user-agent"];

/// Headers that rules change.
pub(super) const HEADERS: [&str; 6] = ["x-a", "x-b", "x-user", "x-env", "x-new", "X-Mixed"];

/// Parameters that rules ask for.
pub(super) const PARAMETERS: [&str; 3] = ["q", "page", "user"];

/// Whole values of headers and parameters.
pub(super) const VALUES: [&str; 5] = ["alice", "bob", "test", "al", "alice,bob"];

pub(super) static VALUE_PATTERNS: [Pattern; 4] = [
    Pattern { regex: "al.*", hits: &["al", "alice"], misses: &["a", "xal"] },
    Pattern { regex: "bob|test[0-9]", hits: &["bob", "test1"], misses: &["test", "bobby"] },
    Pattern { regex: ".+", hits: &["x", "alice"], misses: &[""] },
    Pattern { regex: r"\w+", hits: &["alice", "a_1"], misses: &["a-b", ""] },
];

/// Origins that have permission.
pub(super) const ORIGINS: [&str; 2] = ["https://good.example", "http://other.example:8080"];

pub(super) static ORIGIN_PATTERNS: [Pattern; 1] = [Pattern {
    regex: r"https?://[a-z]+\.example",
    hits: &["https://good.example", "http://any.example"],
    misses: &["https://good.example:1", "https://bad"],
}];

/// Origins as requests have them.
pub(super) const EVERY_ORIGIN: [&str; 5] =
    ["https://good.example", "http://other.example:8080", "https://bad", "https://goodness", "null"];

/// Upon what requests are tried again.
pub(super) const RETRY_ON: [&str; 18] = [
    "5xx",
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "envoy-ratelimited",
    "retriable-4xx",
    "retriable-status-codes",
    "503",
    "429",
    "404",
    "cancelled",
    "unavailable",
    "internal",
    "resource-exhausted",
    "deadline-exceeded",
];

/// How a try may be answered.
pub(super) const STEPS: [&str; 22] = [
    "204", "304", "200", "200", "500", "502", "503", "503", "504", "409", "429", "404", "reset", "reset",
    "close", "limited", "grpc-1", "grpc-4", "grpc-8", "grpc-13", "grpc-14", "grpc-0",
];

/// What makes a try be repeated, by the word of `retryOn`; statuses are their own.
pub(super) const STEPS_OF: [(&str, &str); 11] = [
    ("5xx", "500"),
    ("gateway-error", "502"),
    ("reset", "reset"),
    ("reset-before-request", "close"),
    ("envoy-ratelimited", "limited"),
    ("retriable-4xx", "409"),
    ("cancelled", "grpc-1"),
    ("unavailable", "grpc-14"),
    ("internal", "grpc-13"),
    ("resource-exhausted", "grpc-8"),
    ("deadline-exceeded", "grpc-4"),
];
