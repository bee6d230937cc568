// Written by `npm run openapi` from what the API says of itself; a test compares.
export interface paths {
    readonly "/v2/opt-outs": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * List opt-outs
         * @description Your own client's opt-outs, whichever version recorded them, newest first; with the scope `opt_outs:read_all`, those of every client. The next page is in `Link` and in `next_cursor`.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["listOptOuts"];
        readonly put?: never;
        /**
         * Record an opt-out
         * @description Records what a person refuses, for every identifier of theirs that you name. The 2xx is sent once it is durable; no call takes it back except a later consent of the person (`POST /v2/grants`). Repeat it with the same key until there is an answer: the same key and the same intent get the first answer again, even if v1 gave it. The same opt-out under another key or none gets a 200 and records nothing new, unless the address was erased since.
         *
         *     Scope needed: `opt_outs:write`.
         */
        readonly post: operations["createOptOut"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/opt-outs/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Read an opt-out
         * @description As it was recorded, whichever version recorded it, with how far it has propagated now and whether it is still in force. Another client's is not found.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["getOptOut"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/opt-outs/{id}/propagation": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * How far an opt-out has come, store by store and identifier by identifier
         * @description As it is now. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["getPropagation"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/opt-outs/{id}/receipt": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * A signed statement of an opt-out and how far it has come
         * @description As it is now. Anybody can check it without Abide, with the public keys at `/.well-known/abide-receipt-keys.json`. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["getReceipt"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/subjects/lookup": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * What is known about one identifier
         * @description What is suppressed for it now, since when, and by which opt-outs. By POST, so that no address appears in a URL. An identifier that nobody opted out gets a 200: nothing is suppressed.
         *
         *     Scope needed: `subjects:read`.
         */
        readonly post: operations["lookUpSubject"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/subjects/erasure": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Erase a person's address
         * @description The address is erased for good, and so are note and evidence of every opt-out that names it, and your idempotency key of those and of every grant; the person stays suppressed, and checks still say so. What cannot be read any more cannot be carried: as long as a store in service has not confirmed the opt-out, the answer is 409 and nothing is erased. A store that does not have the person (`absent`) is not waited for. A store that is added or filled again later cannot be told; it counts the person as `absent`. Whoever opts out or consents again gives the address again.
         *
         *     Scope needed: `subjects:erase`.
         */
        readonly post: operations["eraseSubjects"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/grants": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Record a person's own later consent
         * @description The only way back from an opt-out: the person consented again, later than they opted out, and you hold the evidence. One identifier per call. On a tie the opt-out stands. The same consent sent again lifts nothing a second time, whatever was opted out since. If none of these scopes is suppressed, the answer is 200 with `not_suppressed`, and nothing is recorded.
         *
         *     Scope needed: `grants:write`.
         */
        readonly post: operations["createGrant"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/grants/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Read a grant
         * @description With its evidence, how far it has propagated now, and whether it is still in force. Another client's is not found. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["getGrant"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/imports": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The imports of this client
         * @description Newest first. A key that approves imports sees those of every client.
         *
         *     Scope needed: `imports:write` or `imports:approve`.
         */
        readonly get: operations["listImports"];
        readonly put?: never;
        /**
         * Record a file of opt-outs
         * @description The body is the file: CSV with a header, or one JSON object per line. Each row is one person, with one or more of `email`, `phone`, `push_token` and `person_id`, and optionally `scopes` (separated by spaces or semicolons), `effective_at`, `reason`. If a column is unknown, the file is refused and nothing is recorded. The answer comes once the file is stored and counted; read at its `Location` how far it is recorded. The same file with the same parameters is the same import: if you are not sure, send it again. Its rows that were not taken are tried again only once the configuration reads rows otherwise, as a new import.
         *
         *     Scope needed: `imports:write`.
         */
        readonly post: operations["createImport"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/imports/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * How far an import is
         * @description Rows and counts change together: each row counts once, whatever happens meanwhile.
         *
         *     Scope needed: `imports:write` or `imports:approve`.
         */
        readonly get: operations["getImport"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/imports/{id}/errors": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Rows that were not taken, and why
         * @description Ordered by row, available while the import runs. Kept for 90 days after its end.
         *
         *     Scope needed: `imports:write` or `imports:approve`.
         */
        readonly get: operations["listImportErrors"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/imports/{id}/approval": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Approve a large import
         * @description One with more rows than the configuration says (`imports.approve_above_rows`) begins only once somebody else has looked at it: neither the key that sent it nor one that it was rotated into can approve it.
         *
         *     Scope needed: `imports:approve`.
         */
        readonly post: operations["approveImport"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/imports/{id}/cancellation": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Cancel an import that has not begun
         * @description What is recorded stays recorded: an import that runs goes on to its end.
         *
         *     Scope needed: `imports:write` or `imports:approve`.
         */
        readonly post: operations["cancelImport"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v2/checks": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * May these things be done?
         * @description No answer means no.
         *
         *     A problem, a time-out and an item missing from the answer all count as no answer. Ask with every identifier of the person that you hold, shortly before you send or process. An unknown person is not suppressed.
         *
         *     Scope needed: `checks:read`.
         */
        readonly post: operations["check"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        readonly Adjustment: {
            /** @constant */
            readonly code: "effective_at_in_future";
            readonly pointer: string;
            readonly detail: string;
        };
        /** @description An invalid item is answered with "no". */
        readonly CheckItem: {
            /** @description Your own reference, returned unchanged. */
            readonly ref?: string;
            /** @description Every identifier of the person that you hold: if one is suppressed, so is the item. */
            readonly identifiers: readonly components["schemas"]["Identifier"][];
            /** @description What you are about to do: write on a channel, preferably with its topic (`email/newsletter`), or process for a purpose. */
            readonly scope: components["schemas"]["Scope"];
        };
        readonly CheckedItem: {
            readonly ref?: string;
            readonly allowed: boolean;
            /** @description `topic_required`: a topic of this channel is suppressed, and the item names none. `invalid_item`: it cannot be read, or its scope is not declared. */
            readonly reason: ("opted_out" | "topic_required" | "invalid_item") | null;
            readonly opt_out_id: string | null;
            /** @description Since when it is suppressed. */
            readonly effective_at: components["schemas"]["Instant"] | null;
        };
        readonly ChecksAnswer: {
            /** @constant */
            readonly object: "checks";
            readonly as_of: components["schemas"]["Instant"];
            /** @description In the order of the request. */
            readonly items: readonly components["schemas"]["CheckedItem"][];
        };
        readonly ChecksRequest: {
            readonly items: readonly components["schemas"]["CheckItem"][];
        };
        readonly DecisionPropagation: {
            readonly identifier: components["schemas"]["MaskedIdentifier"];
            /**
             * @description `verified`: it was read back and holds it. `applied`: it accepted it and cannot be read back. `superseded`: it holds a newer decision. `absent`: it does not know the person, or the address was erased before it was told. `quarantined`: it keeps failing it, and is tried again for ever.
             * @enum {string}
             */
            readonly state: "pending" | "verified" | "applied" | "superseded" | "absent" | "quarantined" | "paused" | "retired";
            readonly recorded_at: components["schemas"]["Instant"];
            readonly applied_at: components["schemas"]["Instant"] | null;
            readonly verified_at: components["schemas"]["Instant"] | null;
            readonly acknowledged_at: components["schemas"]["Instant"] | null;
            /** @description From recorded to acknowledged. */
            readonly latency_ms: number | null;
            readonly attempts: number | null;
            /** @description A code, if it is not confirmed. */
            readonly reason: string | null;
        };
        readonly ErasedIdentifier: {
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description `a••@e••.com`; null once the address is erased, or if it was damaged. */
            readonly masked: string | null;
            /** @description Ordered by scope. */
            readonly suppressed: readonly components["schemas"]["SuppressedScope"][];
            /**
             * @description `unknown`: there is no such identifier here, and nothing to erase.
             * @enum {string}
             */
            readonly outcome: "erased" | "already_erased" | "unknown";
            /** @description Stores that did not have the person when it was erased: they cannot be told any more should the person appear there. */
            readonly absent: readonly string[];
        };
        readonly Erasure: {
            /** @constant */
            readonly object: "erasure";
            /** @description In the order of the request, each with what stays suppressed. */
            readonly identifiers: readonly components["schemas"]["ErasedIdentifier"][];
        };
        readonly ErasureRequest: {
            readonly identifiers: readonly components["schemas"]["Identifier"][];
        };
        readonly EvidenceAnswer: {
            /**
             * @description How the person said it.
             * @enum {string}
             */
            readonly method: "web_form" | "preference_center" | "unsubscribe_link" | "email" | "sms" | "phone" | "letter" | "in_person" | "app" | "browser_signal" | "other";
            readonly statement: string | null;
            readonly source: string | null;
        };
        readonly Fault: {
            /** @description JSON pointer (RFC 6901). */
            readonly pointer: string;
            readonly detail: string;
        };
        readonly Grant: {
            /** @constant */
            readonly object: "grant";
            /** @constant */
            readonly api_version: "v2";
            /** @description Whether none of its scopes is suppressed now, nor the channel of any. */
            readonly in_force: boolean;
            readonly identifier: components["schemas"]["MaskedIdentifier"];
            readonly requested_scopes: readonly string[];
            /** @description What stays suppressed for this identifier. */
            readonly still_suppressed: readonly string[];
            readonly id: components["schemas"]["Id"];
            /** @description Those that were suppressed until then. */
            readonly lifted_scopes: readonly string[];
            readonly granted_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            readonly evidence: components["schemas"]["EvidenceAnswer"];
            readonly propagation: components["schemas"]["PropagationSummary"];
        };
        readonly GrantEvidence: {
            /**
             * @description How the person said it.
             * @enum {string}
             */
            readonly method: "web_form" | "preference_center" | "unsubscribe_link" | "email" | "sms" | "phone" | "letter" | "in_person" | "app" | "browser_signal" | "other";
            /** @description What the person was shown, or said. Kept sealed. */
            readonly statement: string;
            /** @description Where from: a page, a call, a campaign. Kept sealed. */
            readonly source: string;
        };
        readonly GrantRequest: {
            readonly identifier: components["schemas"]["Identifier"];
            /** @description What the person consents to again. Exactly these are lifted: `email` does not lift `email/newsletter`. What is no longer declared is taken if the person has refused it. */
            readonly scopes: readonly components["schemas"]["Scope"][];
            /**
             * Format: date-time
             * @description When the person consented, RFC 3339 with an offset: later than every opt-out that it lifts, and not in the future.
             */
            readonly granted_at: string;
            readonly evidence: components["schemas"]["GrantEvidence"];
        };
        readonly GrantedScope: {
            readonly scope: string;
            readonly granted_at: components["schemas"]["Instant"];
        };
        /**
         * Format: uuid
         * @description UUIDv7.
         */
        readonly Id: string;
        /** @description Exactly one identifier of a person: an email address, a phone number (E.164, or as it is written in the configured region), a push token, or your own id for the person. Values are brought into a normal form, and appear in no answer, log or error. */
        readonly Identifier: {
            readonly email?: string;
            readonly phone?: string;
            readonly push_token?: string;
            readonly person_id?: string;
        };
        readonly IdentifierState: {
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description `a••@e••.com`; null once the address is erased, or if it was damaged. */
            readonly masked: string | null;
            /** @description Ordered by scope. */
            readonly suppressed: readonly components["schemas"]["SuppressedScope"][];
        };
        readonly Import: {
            /** @constant */
            readonly object: "import";
            /** @constant */
            readonly api_version: "v2";
            readonly id: components["schemas"]["Id"];
            /**
             * @description `awaiting_approval`: another key must approve it. `pending`: it waits for its turn. `failed`: `failure` says why; what was recorded by then stays recorded.
             * @enum {string}
             */
            readonly state: "awaiting_approval" | "pending" | "running" | "done" | "failed" | "cancelled";
            readonly dry_run: boolean;
            /** @enum {string} */
            readonly format: "csv" | "ndjson";
            /** @description Whose file it is. */
            readonly client: string;
            /** @description For rows without scopes of their own. */
            readonly scopes: readonly string[] | null;
            /** @enum {string} */
            readonly reason: "person_request" | "complaint" | "legal" | "other";
            readonly effective_at: components["schemas"]["Instant"] | null;
            readonly bytes: number;
            /** @description Without the header. */
            readonly rows: {
                readonly total: number;
                readonly done: number;
            };
            /** @description They add up to `rows.done`. For a dry run, what would happen. */
            readonly counts: {
                /** @description New opt-outs, each one row. */
                readonly recorded: number;
                /** @description Rows that changed nothing: the person had already opted out, or the row was taken when the file came before. */
                readonly already: number;
                /** @description Rows that were not taken: see the errors. */
                readonly invalid: number;
            };
            /** @description When the file was received. */
            readonly created_at: components["schemas"]["Instant"];
            readonly started_at: components["schemas"]["Instant"] | null;
            readonly finished_at: components["schemas"]["Instant"] | null;
            /** @description Who approved it; null if nobody had to or nobody has. */
            readonly approval: {
                readonly client: string;
                readonly key_id: string;
                readonly at: components["schemas"]["Instant"];
            } | null;
            /** @description A code of the table of errors. */
            readonly failure: string | null;
            readonly errors_url: string;
        };
        readonly ImportErrors: {
            /** @constant */
            readonly object: "list";
            /** @description Ordered by row. Never with a value. */
            readonly errors: readonly components["schemas"]["RowError"][];
            /** @description How many there are; if more than 100,000, only the first 100,000 are listed. */
            readonly found: number;
            /** @description For `cursor`; null on the last page. */
            readonly next_cursor: string | null;
        };
        readonly ImportList: {
            /** @constant */
            readonly object: "list";
            /** @description Newest first. */
            readonly imports: readonly components["schemas"]["Import"][];
            /** @description For `cursor`; null on the last page. */
            readonly next_cursor: string | null;
        };
        /**
         * Format: date-time
         * @description RFC 3339, in UTC, with milliseconds.
         */
        readonly Instant: string;
        readonly MaskedIdentifier: {
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description `a••@e••.com`; null once the address is erased, or if it was damaged. */
            readonly masked: string | null;
        };
        /** @description None of these scopes was suppressed: there is nothing to lift, and nothing is recorded. */
        readonly NothingToGrant: {
            /** @constant */
            readonly object: "grant";
            /** @constant */
            readonly api_version: "v2";
            /** @constant */
            readonly outcome: "not_suppressed";
            readonly identifier: components["schemas"]["MaskedIdentifier"];
            readonly requested_scopes: readonly string[];
            /** @description What stays suppressed for this identifier. */
            readonly still_suppressed: readonly string[];
        };
        readonly OptOut: {
            /** @constant */
            readonly object: "opt_out";
            /** @constant */
            readonly api_version: "v2";
            readonly id: components["schemas"]["Id"];
            /** @description Whether every scope that was asked for is still suppressed, by itself or with its channel, for every identifier. */
            readonly in_force: boolean;
            /** @description In the order of the request. */
            readonly identifiers: readonly components["schemas"]["IdentifierState"][];
            /** @description What was asked for. */
            readonly requested_scopes: readonly string[];
            /** @enum {string} */
            readonly reason: "person_request" | "complaint" | "legal" | "other";
            readonly regimes: readonly ("gdpr" | "uk_gdpr" | "eprivacy" | "ccpa" | "tcpa" | "can_spam" | "casl" | "au_spam" | "lgpd")[];
            readonly effective_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            /** @description Also null if another client gave it, unless the key has `opt_outs:read_all`. */
            readonly evidence: components["schemas"]["EvidenceAnswer"] | null;
            readonly warnings: readonly components["schemas"]["Warning"][];
            readonly propagation: components["schemas"]["PropagationSummary"];
        };
        readonly OptOutEvidence: {
            /**
             * @description How the person said it.
             * @enum {string}
             */
            readonly method: "web_form" | "preference_center" | "unsubscribe_link" | "email" | "sms" | "phone" | "letter" | "in_person" | "app" | "browser_signal" | "other";
            /** @description What the person was shown, or said. Kept sealed. */
            readonly statement?: string;
            /** @description Where from: a page, a call, a campaign. Kept sealed. */
            readonly source?: string;
        };
        readonly OptOutList: {
            /** @constant */
            readonly object: "list";
            /** @description Newest first. */
            readonly opt_outs: readonly components["schemas"]["OptOut"][];
            /** @description For `cursor`; null on the last page. */
            readonly next_cursor: string | null;
        };
        readonly OptOutRequest: {
            /** @description Every identifier of the person that you hold. They make one opt-out, with one decision for each. */
            readonly identifiers: readonly components["schemas"]["Identifier"][];
            /** @description What the person refuses. */
            readonly scopes: readonly components["schemas"]["Scope"][];
            /**
             * Format: date-time
             * @description Since when, RFC 3339 with an offset; absent: the time of receipt. May be in the past. A time up to an hour ahead is taken as the time of receipt, and `adjustments` says so; one further ahead is refused.
             */
            readonly effective_at?: string;
            /**
             * @default person_request
             * @enum {string}
             */
            readonly reason?: "person_request" | "complaint" | "legal" | "other";
            /** @description The laws under which the person opts out, as far as you know: for your own records. */
            readonly regimes?: readonly ("gdpr" | "uk_gdpr" | "eprivacy" | "ccpa" | "tcpa" | "can_spam" | "casl" | "au_spam" | "lgpd")[];
            readonly evidence?: components["schemas"]["OptOutEvidence"];
            /** @description Kept sealed, and in no answer. No control characters except tabs and line ends. */
            readonly note?: string;
        };
        /** @description RFC 9457. */
        readonly Problem: {
            /** @description `urn:abide:problem:` and the code. */
            readonly type: string;
            readonly title: string;
            readonly status: number;
            /** @description For people; may change. Never has a value of the request in it. */
            readonly detail: string;
            /**
             * @description What to decide by. More may come: treat an unknown one by its status.
             * @enum {string}
             */
            readonly code: "malformed-json" | "malformed-file" | "invalid-request" | "unauthenticated" | "missing-scope" | "second-key-needed" | "not-found" | "method-not-allowed" | "opt-outs-are-irreversible" | "request-timeout" | "idempotency-key-in-use" | "grant-not-later" | "erasure-too-early" | "import-not-waiting" | "another-stanza" | "version-retired" | "too-large" | "unsupported-media-type" | "unsupported-file-type" | "invalid-value" | "idempotency-key-reused" | "too-many-requests" | "budget-exhausted" | "headers-too-large" | "internal-error" | "issuer-unavailable" | "ledger-unavailable" | "overloaded" | "KEYS_MISSING" | "LEDGER_MISSING" | "LEDGER_SET_BACK" | "KEYS_INVALID" | "RECEIPT_INVALID" | "CONFIG_INVALID" | "DATABASE_UNREACHABLE" | "POSTGRES_FAILED" | "STACK_FAILED" | "CONNECTOR_FAILED" | "KAFKA_FAILED" | "STORE_UNREACHABLE" | "STORE_TIMEOUT" | "STORE_ASKS_TO_WAIT" | "STORE_FAILED" | "GUARD_FAILED" | "NOT_HELD" | "SEALED_UNREADABLE";
            /**
             * Format: uuid
             * @description Quote it when you report something.
             */
            readonly request_id: string;
            /** @description Whether the same call, unchanged, may succeed later. */
            readonly retryable: boolean;
            /** @description Every fault of the request, with `invalid-value`, `grant-not-later` and `erasure-too-early`. */
            readonly errors?: readonly components["schemas"]["Fault"][];
        };
        readonly Propagation: {
            /** @constant */
            readonly object: "propagation";
            /** @description The opt-out's. */
            readonly id: components["schemas"]["Id"];
            /**
             * @description `complete`: every required store has confirmed. `uncovered`: no required store covers what was asked for, so nothing is promised.
             * @enum {string}
             */
            readonly state: "pending" | "complete" | "uncovered";
            /** @description How many stores must confirm. */
            readonly required: number;
            /** @description How many have. */
            readonly confirmed: number;
            /** @description How many of these were read back and seen to hold it. */
            readonly verified: number;
            /** @description Once it is set, it stays. */
            readonly first_completed_at: components["schemas"]["Instant"] | null;
            /** @description Scopes that no required store covers for any of these identifiers. */
            readonly uncovered: readonly string[];
            /** @description The stores that must hold it. */
            readonly stores: readonly components["schemas"]["StorePropagation"][];
        };
        readonly PropagationSummary: {
            /**
             * @description `complete`: every required store has confirmed. `uncovered`: no required store covers what was asked for, so nothing is promised.
             * @enum {string}
             */
            readonly state: "pending" | "complete" | "uncovered";
            /** @description How many stores must confirm. */
            readonly required: number;
            /** @description How many have. */
            readonly confirmed: number;
            /** @description How many of these were read back and seen to hold it. */
            readonly verified: number;
            /** @description Scopes that no required store covers for any of these identifiers. */
            readonly uncovered: readonly string[];
            /** @description Where to read it store by store. */
            readonly url: string;
        };
        readonly Receipt: {
            /** @constant */
            readonly object: "receipt";
            readonly opt_out_id: components["schemas"]["Id"];
            /** @description A JSON Web Signature. docs/receipts.md says what it states. It names nobody. */
            readonly receipt: string;
            /** @description Whoever has it and the address can show that the receipt is about that address. Phone numbers can be tried out with it: it is answered only to a key with `opt_outs:write` of the client that recorded the opt-out, which knows the address. */
            readonly salt: string | null;
        };
        readonly RecordedGrant: {
            /** @constant */
            readonly object: "grant";
            /** @constant */
            readonly api_version: "v2";
            /**
             * @description `already_recorded`: the same consent was recorded before, and lifts nothing a second time.
             * @enum {string}
             */
            readonly outcome: "recorded" | "already_recorded";
            /** @description Whether none of its scopes is suppressed, nor the channel of any. */
            readonly in_force: boolean;
            readonly identifier: components["schemas"]["MaskedIdentifier"];
            readonly requested_scopes: readonly string[];
            /** @description What stays suppressed for this identifier. */
            readonly still_suppressed: readonly string[];
            readonly id: components["schemas"]["Id"];
            /** @description Those that were suppressed until then. */
            readonly lifted_scopes: readonly string[];
            readonly granted_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            readonly propagation: components["schemas"]["PropagationSummary"];
        };
        readonly RecordedOptOut: {
            /** @constant */
            readonly object: "opt_out";
            /** @constant */
            readonly api_version: "v2";
            readonly id: components["schemas"]["Id"];
            /**
             * @description `already_opted_out`: nothing would change; this is the opt-out that covers the request. `already_recorded`: the same opt-out was recorded before a later grant, and changes nothing; `in_force` says whether its scopes are suppressed all the same.
             * @enum {string}
             */
            readonly outcome: "recorded" | "already_opted_out" | "already_recorded";
            readonly in_force: boolean;
            /** @description In the order of the request. */
            readonly identifiers: readonly components["schemas"]["IdentifierState"][];
            /** @description What was asked for. */
            readonly requested_scopes: readonly string[];
            /** @enum {string} */
            readonly reason: "person_request" | "complaint" | "legal" | "other";
            readonly regimes: readonly ("gdpr" | "uk_gdpr" | "eprivacy" | "ccpa" | "tcpa" | "can_spam" | "casl" | "au_spam" | "lgpd")[];
            readonly effective_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            /** @description What was taken differently from how it was stated. */
            readonly adjustments: readonly components["schemas"]["Adjustment"][];
            readonly warnings: readonly components["schemas"]["Warning"][];
            readonly propagation: components["schemas"]["PropagationSummary"];
        };
        readonly RowError: {
            /** @description From 1, without the header and empty lines. */
            readonly row: number;
            /** @description Where the row begins in the file. */
            readonly line: number;
            /** @description Null: the row as a whole. */
            readonly column: string | null;
            /**
             * @description `invalid`: cannot be read as a value of the column. `missing`: no identifier, or no scopes. `too_far_ahead`: a date more than an hour ahead.
             * @enum {string}
             */
            readonly code: "invalid" | "missing" | "too_far_ahead" | "not_utf8" | "not_json" | "wrong_number_of_fields";
        };
        /** @description A channel (`email`), a topic of a channel (`email/newsletter`), or a purpose (`analytics`). Topics and purposes are those that the configuration declares; others are refused. `email` covers `email/newsletter`, never the reverse. */
        readonly Scope: string;
        readonly StorePropagation: {
            readonly store: string;
            readonly required: boolean;
            /**
             * @description The state of its decision that is furthest behind: `verified` only if every one is.
             * @enum {string}
             */
            readonly state: "pending" | "verified" | "applied" | "superseded" | "absent" | "quarantined" | "paused" | "retired";
            /** @description One per identifier that the store must hold. */
            readonly decisions: readonly components["schemas"]["DecisionPropagation"][];
        };
        readonly SubjectLookup: {
            readonly identifier: components["schemas"]["Identifier"];
        };
        readonly SubjectState: {
            /** @constant */
            readonly object: "subject";
            readonly identifier: components["schemas"]["IdentifierState"];
            /** @description What the person consented to again and has not refused since. */
            readonly granted: readonly components["schemas"]["GrantedScope"][];
            /** @description Those that name it, newest first, at most 100. */
            readonly opt_outs: readonly components["schemas"]["OptOut"][];
        };
        readonly SuppressedScope: {
            readonly scope: string;
            readonly since: components["schemas"]["Instant"];
            /**
             * Format: uuid
             * @description The opt-out that began it.
             */
            readonly opt_out_id: string;
        };
        /** @description None of these identifiers reaches the channel: opt out another one as well. */
        readonly Warning: {
            /** @constant */
            readonly code: "channel_needs_other_identifier";
            /** @enum {string} */
            readonly scope: "email" | "sms" | "push";
            readonly detail: string;
        };
    };
    responses: {
        /** @description `erasure-too-early`: A store does not hold the opt-out yet. Once the address is erased, the store can never be told: `errors` names each one. Ask again when it has confirmed. */
        readonly ErasureTooEarly: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `idempotency-key-in-use`: The same key is still running. Repeat after `Retry-After`. */
        readonly IdempotencyKeyInUse: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `import-not-waiting`: The import does not wait any more. Only an import that waits to begin can be approved or cancelled: see its state in `detail`. */
        readonly ImportNotWaiting: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `internal-error`: Something broke on our side. Quote `request_id` when you report it. */
        readonly InternalError: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `invalid-request`: The request cannot be read. It is not valid HTTP/1.1, or it ended early. */
        readonly InvalidRequest: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `invalid-request`: The request cannot be read. It is not valid HTTP/1.1, or it ended early.
         *
         *     `malformed-file`: The file cannot be read. See `detail` for the line; nothing of the file was recorded.
         */
        readonly InvalidRequestOrMalformedFile: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `invalid-request`: The request cannot be read. It is not valid HTTP/1.1, or it ended early.
         *
         *     `malformed-json`: The body is not valid JSON. Send one JSON object; each member once.
         */
        readonly InvalidRequestOrMalformedJson: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `invalid-value`: The request has invalid values. Each fault is named in `errors`. */
        readonly InvalidValue: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `invalid-value`: The request has invalid values. Each fault is named in `errors`.
         *
         *     `idempotency-key-reused`: The key was used for another request. Use a new key for a new request.
         */
        readonly InvalidValueOrIdempotencyKeyReused: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `issuer-unavailable`: The token cannot be checked. Its issuer's keys cannot be fetched: repeat after `Retry-After`, or use an API key.
         *
         *     `ledger-unavailable`: The ledger cannot be reached. Repeat with the same key: either nothing was recorded, or the same key finds what was.
         *
         *     `overloaded`: Too much at once. Repeat after `Retry-After`; nothing was recorded.
         */
        readonly IssuerUnavailableOrLedgerUnavailableOrOverloaded: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `missing-scope`: The key may not do this. Use a key with the scope named in `detail`. */
        readonly MissingScope: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `missing-scope`: The key may not do this. Use a key with the scope named in `detail`.
         *
         *     `second-key-needed`: Another key must approve this. The key that sent it cannot approve it: use the key of somebody else, with the scope `imports:approve`.
         */
        readonly MissingScopeOrSecondKeyNeeded: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `not-found`: Not found. Check the path and the id. */
        readonly NotFound: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `too-large`: The body is too large. Send at most the size named in `detail`. */
        readonly TooLarge: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `too-many-requests`: Too many requests. Repeat after `Retry-After`. */
        readonly TooManyRequests: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                readonly RateLimit: components["headers"]["RateLimit"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /**
         * @description `too-many-requests`: Too many requests. Repeat after `Retry-After`.
         *
         *     `budget-exhausted`: The budget of the day is spent. Repeat after `Retry-After`, or ask the operators of Abide to raise the budget of the key.
         */
        readonly TooManyRequestsOrBudgetExhausted: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "Retry-After": components["headers"]["Retry-After"];
                readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                readonly RateLimit: components["headers"]["RateLimit"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `unauthenticated`: No valid credential. Send `Authorization: Bearer <key>`, with a key that is known here and neither expired nor revoked. */
        readonly Unauthenticated: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly "WWW-Authenticate": components["headers"]["WWW-Authenticate"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `unsupported-file-type`: Only CSV and NDJSON are read. Send the file as text/csv or application/x-ndjson, in UTF-8 and not compressed. */
        readonly UnsupportedFileType: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
        /** @description `unsupported-media-type`: Only JSON is read. Send Content-Type: application/json. */
        readonly UnsupportedMediaType: {
            headers: {
                readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                readonly [name: string]: unknown;
            };
            content: {
                readonly "application/problem+json": components["schemas"]["Problem"];
            };
        };
    };
    parameters: never;
    requestBodies: never;
    headers: {
        /** @description Of this one request; it is in the audit log and in our log. */
        readonly "X-Request-Id": string;
        /** @description Seconds. */
        readonly "Retry-After": number;
        /** @description The rate of your key, if it has one: `"reads";q=10000;w=10` allows 10,000 calls of this class in 10 seconds, refilled evenly (draft-ietf-httpapi-ratelimit-headers-10, which may change). */
        readonly "RateLimit-Policy": string;
        /** @description What is left of it: `"reads";r=9998;t=1` means 9,998 calls, and more within a second (the same draft). */
        readonly RateLimit: string;
        /** @description Which credential is needed. */
        readonly "WWW-Authenticate": string;
    };
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    readonly listOptOuts: {
        readonly parameters: {
            readonly query?: {
                /** @description The most that a page has. A filtered one may have fewer, or none, and there may still be a next one. */
                readonly limit?: number;
                /** @description `next_cursor` of the page before. */
                readonly cursor?: string;
                /** @description Recorded at this time or later, RFC 3339 with an offset. */
                readonly since?: string;
                /** @description Recorded before this time, RFC 3339 with an offset. */
                readonly until?: string;
                /** @description Those whose propagation is in this state now. */
                readonly state?: "pending" | "complete" | "uncovered";
                /** @description Those that this store must hold; with `state`, by what this store has confirmed. */
                readonly store?: string;
                /** @description Recorded for this reason. */
                readonly reason?: "person_request" | "complaint" | "legal" | "other";
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description A page. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The next page, `rel="next"` (RFC 8288); absent on the last one. */
                    readonly Link?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["OptOutList"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            /** @description `invalid-value`: The request has invalid values. Each fault is named in `errors`. */
            readonly 422: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly createOptOut: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description Your name for this one request: repeats under the same key count as one. Kept for 30 days, per client. */
                readonly "Idempotency-Key"?: string;
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["OptOutRequest"];
            };
        };
        readonly responses: {
            /** @description The person had already opted out: the opt-out that says so. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read it back. */
                    readonly Location?: string;
                    /** @description This key was answered before: status and body are those of that answer, byte for byte, except the propagation under `Prefer: wait`. */
                    readonly "Idempotency-Replayed"?: "true";
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["RecordedOptOut"];
                };
            };
            /** @description Recorded. */
            readonly 201: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read it back. */
                    readonly Location?: string;
                    /** @description This key was answered before: status and body are those of that answer, byte for byte, except the propagation under `Prefer: wait`. */
                    readonly "Idempotency-Replayed"?: "true";
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["RecordedOptOut"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 409: components["responses"]["IdempotencyKeyInUse"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            /**
             * @description `invalid-value`: The request has invalid values. Each fault is named in `errors`.
             *
             *     `idempotency-key-reused`: The key was used for another request. Use a new key for a new request.
             */
            readonly 422: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getOptOut: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The opt-out. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["OptOut"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            /** @description `not-found`: Not found. Check the path and the id. */
            readonly 404: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getPropagation: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The propagation. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Propagation"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getReceipt: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The receipt. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Receipt"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly lookUpSubject: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["SubjectLookup"];
            };
        };
        readonly responses: {
            /** @description The state of the identifier. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["SubjectState"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly eraseSubjects: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["ErasureRequest"];
            };
        };
        readonly responses: {
            /** @description Done, or nothing to do. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Erasure"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 409: components["responses"]["ErasureTooEarly"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly createGrant: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description Your name for this one request: repeats under the same key count as one. Kept for 30 days, per client. */
                readonly "Idempotency-Key"?: string;
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["GrantRequest"];
            };
        };
        readonly responses: {
            /** @description Nothing changed: it was already so. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read it back. */
                    readonly Location?: string;
                    /** @description This key was answered before: status and body are those of that answer, byte for byte, except the propagation under `Prefer: wait`. */
                    readonly "Idempotency-Replayed"?: "true";
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["RecordedGrant"] | components["schemas"]["NothingToGrant"];
                };
            };
            /** @description Recorded. */
            readonly 201: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read it back. */
                    readonly Location?: string;
                    /** @description This key was answered before: status and body are those of that answer, byte for byte, except the propagation under `Prefer: wait`. */
                    readonly "Idempotency-Replayed"?: "true";
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["RecordedGrant"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            /**
             * @description `grant-not-later`: The opt-out is the later one. A consent lifts only what was opted out before it: `errors` names each scope that is in the way.
             *
             *     `idempotency-key-in-use`: The same key is still running. Repeat after `Retry-After`.
             */
            readonly 409: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "Retry-After": components["headers"]["Retry-After"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValueOrIdempotencyKeyReused"];
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getGrant: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: {
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The grant. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Grant"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly listImports: {
        readonly parameters: {
            readonly query?: {
                /** @description The most that a page has. */
                readonly limit?: number;
                /** @description `next_cursor` of the page before. */
                readonly cursor?: string;
                /** @description Those in this state. */
                readonly state?: "awaiting_approval" | "pending" | "running" | "done" | "failed" | "cancelled";
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description A page. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The next page, `rel="next"` (RFC 8288); absent on the last one. */
                    readonly Link?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ImportList"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly createImport: {
        readonly parameters: {
            readonly query?: {
                /** @description `true`: counts what it would do, and records nothing. */
                readonly dry_run?: "true" | "false";
                /** @description For rows without scopes of their own, separated by spaces or semicolons. */
                readonly scopes?: string;
                /** @description For rows without a reason of their own. */
                readonly reason?: "person_request" | "complaint" | "legal" | "other";
                /** @description For rows without a date of their own, RFC 3339 with an offset; absent: when the file was received. */
                readonly effective_at?: string;
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "text/csv": string;
                readonly "application/x-ndjson": string;
            };
        };
        readonly responses: {
            /** @description It was sent before: the import that it began. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read its progress. */
                    readonly Location?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Import"];
                };
            };
            /** @description It is stored, and waits for its turn. */
            readonly 202: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description Where to read its progress. */
                    readonly Location?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Import"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedFile"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedFileType"];
            /** @description `invalid-value`: The request has invalid values. Each fault is named in `errors`. */
            readonly 422: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getImport: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The import. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Import"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            /** @description `not-found`: Not found. Check the path and the id. */
            readonly 404: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly listImportErrors: {
        readonly parameters: {
            readonly query?: {
                /** @description The most that a page has. */
                readonly limit?: number;
                /** @description `next_cursor` of the page before. */
                readonly cursor?: string;
            };
            readonly header?: never;
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description A page. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The next page, `rel="next"` (RFC 8288); absent on the last one. */
                    readonly Link?: string;
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ImportErrors"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly approveImport: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description It is approved, and waits for its turn. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Import"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScopeOrSecondKeyNeeded"];
            /** @description `not-found`: Not found. Check the path and the id. */
            readonly 404: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 409: components["responses"]["ImportNotWaiting"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly cancelImport: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                readonly id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description It is cancelled, and its file is gone. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Import"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            /** @description `not-found`: Not found. Check the path and the id. */
            readonly 404: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
            readonly 409: components["responses"]["ImportNotWaiting"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly check: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["ChecksRequest"];
            };
        };
        readonly responses: {
            /** @description One answer per item. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ChecksAnswer"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequestsOrBudgetExhausted"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
}
