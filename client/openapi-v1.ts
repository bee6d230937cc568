// Written by `npm run openapi` from what the API says of itself; a test compares.
export interface paths {
    readonly "/v1/opt-outs": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * List opt-outs
         * @description Your own client's opt-outs, newest first; with the scope `opt_outs:read_all`, those of every client. The next page is in `Link` and in `next_cursor`.
         *
         *     Scope needed: `opt_outs:read`.
         */
        readonly get: operations["listOptOuts"];
        readonly put?: never;
        /**
         * Record an opt-out
         * @description Records that a person does not want to be reached. The 2xx is sent once it is durable; no call takes it back. Repeat it with the same key until there is an answer: the same key and the same intent get the first answer again. The same opt-out under another key or none gets a 200 and records nothing new, unless the address was erased since.
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
    readonly "/v1/opt-outs/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Read an opt-out
         * @description As it was recorded, with how far it has propagated now and whether it is still in force. Another client's is not found.
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
    readonly "/v1/opt-outs/{id}/propagation": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * How far an opt-out has come, store by store
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
    readonly "/v1/subjects/lookup": {
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
         * @description What is suppressed for it now, since when, and by which opt-outs. By POST, so that no address appears in a URL. An identifier that nobody opted out gets a 200: all false.
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
    readonly "/v1/checks": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * May these messages be sent?
         * @description No answer means do not send.
         *
         *     A problem, a time-out and an item missing from the answer all count as no answer. Ask with every identifier of the person that you hold, shortly before you send. An unknown person is not suppressed.
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
    readonly "/v1/propagation-lag": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * How far behind every store is
         * @description The age of the oldest of all the decisions that a store must hold and has not confirmed, by the clock of the database.
         *
         *     Scope needed: `lag:read`.
         */
        readonly get: operations["getPropagationLag"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/propagation-lag/events": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The lag as server-sent events
         * @description An event at every change, and at least one every 2 s. `lag` carries what GET /v1/propagation-lag answers; `unknown` carries a problem: the ledger does not answer. At most 100 clients may listen to one server.
         *
         *     Scope needed: `lag:read`.
         */
        readonly get: operations["followPropagationLag"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/gate": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * May a sender rely on a store's own copy now?
         * @description No answer means hold. Anything but `send`, including a problem or a time-out, is `hold`. For senders that read suppressions from a store and not from here.
         *
         *     Scope needed: `lag:read` or `checks:read`.
         */
        readonly get: operations["getGate"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/quarantine": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What a store keeps failing
         * @description Parked, counted in the lag, and tried again for ever: no call takes anything out.
         *
         *     Scope needed: `lag:read`.
         */
        readonly get: operations["listQuarantine"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/quarantine/{seq}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Everything known about one parked decision
         * @description With what the store last proved about this subject.
         *
         *     Scope needed: `lag:read`.
         */
        readonly get: operations["getQuarantined"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/quarantine/retry": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * Have it tried again now
         * @description Within about a second, whenever their own next try would be.
         *
         *     Scope needed: `stores:write`.
         */
        readonly post: operations["retryQuarantined"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/reconciliation": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The latest passes over a store
         * @description In a pass, what the store had acknowledged is read back again, page by page. What differs is outstanding again.
         *
         *     Scope needed: `lag:read`.
         */
        readonly get: operations["listReconciliations"];
        readonly put?: never;
        /**
         * Begin a pass now, at full speed
         * @description Carried out by the store's worker. Stores that cannot be read back have none.
         *
         *     Scope needed: `stores:write`.
         */
        readonly post: operations["beginReconciliation"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/reconciliation/page": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What the store acknowledged, to be read back again
         * @description For the worker that holds the store's lease. Null: there is nothing to compare now.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["getReconciliationPage"];
        readonly put?: never;
        /**
         * What differed
         * @description A page is counted once: `taken` is false if it was counted before or its pass is over.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly post: operations["reportReconciliationPage"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/listing": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * Where to go on listing what the store holds
         * @description For the worker that holds the store's lease, if what the store suppresses by itself is recorded and its keys are plain addresses. Null: there is nothing to list now, or at all.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["getListingPage"];
        readonly put?: never;
        /**
         * What the store lists
         * @description Anybody who is suppressed and unknown to the ledger is recorded as an opt-out of the client `store:NAME`. A page is taken once: `taken` is false if it was taken before or the list is over.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly post: operations["reportListingPage"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/acknowledgements": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly get?: never;
        readonly put?: never;
        /**
         * What the store holds, and that its worker lives
         * @description Send at most 1,000, possibly none, at least every 2 s: the report is the sign of life and renews the lease. The ledger compares what is held with what it decided; `failed` settles nothing; with the code `LIFT_NOT_UNDONE` the decision is outstanding again, though the store acknowledged it. Repeats are harmless.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly post: operations["acknowledge"];
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/outstanding": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What the store must hold and has not confirmed
         * @description What can be carried now, live decisions first. `Prefer: wait=30` holds an empty answer until something is due.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["listOutstanding"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/canary": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The canary that the store acknowledged last
         * @description A synthetic opt-out. A store that no longer holds it is no longer the store that it was. Null: there is none.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["getCanary"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/stores/{name}/subjects/{subject_id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * What is decided about one subject now
         * @description Ask this before and after you tell a store without versions to lift something: is the decision still the newest, and was the store told before?
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["getNewestDecision"];
        readonly put?: never;
        readonly post?: never;
        readonly delete?: never;
        readonly options?: never;
        readonly head?: never;
        readonly patch?: never;
        readonly trace?: never;
    };
    readonly "/v1/transport-keys/{id}": {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        /**
         * The key that opens sealed addresses
         * @description Keep it in memory only. A key is destroyed once nothing under it is outstanding and 35 days have passed.
         *
         *     Scope needed: `acknowledgements:write`.
         */
        readonly get: operations["getTransportKey"];
        readonly put?: never;
        readonly post?: never;
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
        readonly AcknowledgementAnswer: {
            readonly accepted: number;
            readonly duplicate: number;
            readonly rejected: readonly {
                readonly seq: number;
                /** @enum {string} */
                readonly code: "unknown_seq" | "version_mismatch" | "ahead_of_ledger" | "not_due" | "not_verifiable" | "old_generation";
            }[];
        };
        readonly AcknowledgementReport: {
            readonly store: string;
            readonly generation: number;
            readonly worker: {
                readonly id: string;
                readonly incarnation: string;
                readonly last_error?: {
                    readonly code: string;
                    /** Format: date-time */
                    readonly at: string;
                };
                readonly source: {
                    readonly kind: string;
                    /** @enum {string} */
                    readonly status: "ok" | "catching_up" | "polling" | "down" | "unknown";
                    readonly position?: string;
                    readonly position_age_seconds?: number;
                    readonly parked: number;
                };
            };
            readonly observed?: {
                readonly incarnation?: string | null;
                /** @enum {string} */
                readonly canary?: "held" | "lost";
            };
            readonly acknowledgements: readonly {
                readonly seq: number;
                readonly version: number;
                /** @description Whose decision was carried. Say it: what somebody else wrote to the topic under this number is then refused. */
                readonly subject_id?: components["schemas"]["Id"];
                /** @enum {string} */
                readonly outcome: "verified" | "applied" | "absent" | "refused" | "failed";
                readonly held: {
                    readonly version: number | null;
                    readonly suppressed: readonly string[];
                };
                /** @enum {string} */
                readonly carried_by: "stream" | "redrive" | "catch_up" | "retry" | "backfill";
                readonly attempts: number;
                /** @description As given out with the decision; absent if it was given out with none. */
                readonly asked?: number;
                readonly code?: string;
                /** @default {} */
                readonly evidence?: {
                    /** Format: date-time */
                    readonly consumed_at?: string;
                    /** Format: date-time */
                    readonly applied_at?: string;
                    /** Format: date-time */
                    readonly verified_at?: string;
                };
            }[];
        };
        readonly Adjustment: {
            /** @constant */
            readonly code: "effective_at_in_future";
            readonly pointer: string;
            readonly detail: string;
        };
        readonly Canary: {
            readonly canary: components["schemas"]["Decision"] | null;
        };
        /** @description Has either `subject` or `subjects`. An invalid item is answered with "do not send". */
        readonly CheckItem: {
            /** @description Your own reference, returned unchanged. */
            readonly ref?: string;
            readonly subject?: components["schemas"]["Subject"];
            /** @description Every identifier of the person that you hold: if one is suppressed, so is the item. */
            readonly subjects?: readonly components["schemas"]["Subject"][];
            /** @enum {string} */
            readonly channel: "email" | "sms" | "push";
            /** @description What the message is about, such as `newsletter`: a topic that the configuration declares. */
            readonly topic?: string;
        };
        readonly CheckedItem: {
            readonly ref?: string;
            readonly can_send: boolean;
            /** @description `topic_required`: a topic of this channel is suppressed, and the item names none that is declared. `invalid_item`: it cannot be read. */
            readonly reason: ("opted_out" | "topic_required" | "invalid_item") | null;
            readonly opt_out_id: string | null;
            /** @description Since when it is suppressed. */
            readonly effective_at: components["schemas"]["Instant"] | null;
        };
        readonly ChecksAnswer: {
            readonly as_of: components["schemas"]["Instant"];
            /** @description In the order of the request. */
            readonly items: readonly components["schemas"]["CheckedItem"][];
        };
        readonly ChecksRequest: {
            readonly items: readonly components["schemas"]["CheckItem"][];
        };
        readonly Comparison: {
            readonly run: number;
            readonly generation: number;
            /** Format: uuid */
            readonly after: string;
            /** Format: uuid */
            readonly through: string;
            readonly last: boolean;
            readonly compared: number;
            readonly own: number;
            /** @description Which of it is among the scopes that the page named under `own`. */
            readonly own_suppressions?: readonly {
                readonly seq: number;
                readonly suppressed: readonly string[];
            }[];
            readonly unread: number;
            readonly differences: readonly {
                readonly seq: number;
                /** @enum {string} */
                readonly kind: "missing" | "older" | "resurrected" | "ahead";
                readonly held_version: number | null;
            }[];
        };
        readonly ComparisonAnswer: {
            readonly taken: boolean;
        };
        /** @description The subject's whole resulting state. */
        readonly Decision: {
            readonly seq: number;
            readonly opt_out_id: components["schemas"]["Id"] | null;
            /** @description Of two decisions about one subject, the higher is the newer. */
            readonly version: number;
            readonly subject_id: components["schemas"]["Id"];
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description Scope → since when. */
            readonly suppressed: {
                readonly [key: string]: components["schemas"]["Instant"];
            };
            /** @description Scopes that the person's consent took away: clear them if the store holds an older version. */
            readonly granted: {
                readonly [key: string]: {
                    readonly at: components["schemas"]["Instant"];
                    readonly version: number;
                };
            };
            readonly effective_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description The address, sealed with a transport key, base64url; null once it is erased. */
            readonly sealed: string | null;
            readonly transport_key_id: number | null;
        };
        /** @description Since when each channel is suppressed; null if it is not. */
        readonly EffectivePerChannel: {
            readonly email: components["schemas"]["Instant"] | null;
            readonly sms: components["schemas"]["Instant"] | null;
            readonly push: components["schemas"]["Instant"] | null;
        };
        readonly Fault: {
            /** @description JSON pointer (RFC 6901). */
            readonly pointer: string;
            readonly detail: string;
        };
        readonly Gate: {
            readonly store: string;
            /** @enum {string} */
            readonly answer: "send" | "hold";
            /** @description Why to hold. */
            readonly reason: ("paused" | "backfilling" | "late" | "unknown" | "outstanding" | "retired") | null;
            readonly verified_through: number | null;
            readonly oldest_outstanding_seconds: number | null;
            /** @description People whom the store did not know when it was told of them. */
            readonly absent: number | null;
            readonly as_of: components["schemas"]["Instant"];
        };
        /**
         * Format: uuid
         * @description UUIDv7.
         */
        readonly Id: string;
        /**
         * Format: date-time
         * @description RFC 3339, in UTC, with milliseconds.
         */
        readonly Instant: string;
        readonly Listed: {
            readonly generation: number;
            readonly pages: number;
            /** @description The last one that was read; null: there were no more. */
            readonly through: {
                /** @enum {string} */
                readonly kind: "email" | "phone" | "push_token" | "person_id";
                readonly key: string;
            } | null;
            readonly last: boolean;
            readonly listed: number;
            /** @description Those who are suppressed. */
            readonly suppressed: readonly {
                /** @enum {string} */
                readonly kind: "email" | "phone" | "push_token" | "person_id";
                readonly key: string;
                readonly scopes: readonly string[];
            }[];
        };
        readonly ListingPage: {
            readonly page: {
                readonly generation: number;
                /** @description Pages taken so far; repeat it in the report. */
                readonly pages: number;
                /** @description Null: from the beginning. */
                readonly after: {
                    /** @enum {string} */
                    readonly kind: "email" | "phone" | "push_token" | "person_id";
                    readonly key: string;
                } | null;
                /** @description Report what the store suppresses of these. */
                readonly scopes: readonly string[];
                /** @description Wait this long before the next page. */
                readonly pause_ms: number;
            } | null;
        };
        readonly MaskedSubject: {
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description `a••@e••.com`; null once the address is erased, or if it was damaged. */
            readonly masked: string | null;
        };
        readonly NewestDecision: {
            readonly subject_id: components["schemas"]["Id"];
            readonly seq: number;
            readonly version: number;
            /** @description Scope → since when. */
            readonly suppressed: {
                readonly [key: string]: components["schemas"]["Instant"];
            };
            /** @description Scopes that the person's consent took away: clear them if the store holds an older version. */
            readonly granted: {
                readonly [key: string]: {
                    readonly at: components["schemas"]["Instant"];
                    readonly version: number;
                };
            };
            /** @description The newest that the store has acknowledged since it was last emptied, put back or pointed elsewhere; 0: none. Present only if asked for. */
            readonly acknowledged_version?: number;
            /** @description The oldest that it has acknowledged since it was last emptied, put back or pointed elsewhere; 0: none. Present only if asked for. */
            readonly first_acknowledged_version?: number;
        };
        /** @description A later version recorded more than this one can express. */
        readonly NotWholeInV1: {
            /** @constant */
            readonly code: "not_whole_in_v1";
            readonly detail: string;
        };
        readonly OptOut: {
            /** @constant */
            readonly object: "opt_out";
            /** @constant */
            readonly api_version: "v1";
            readonly id: components["schemas"]["Id"];
            /** @constant */
            readonly outcome: "recorded";
            /** @description Whether every scope that was asked for is still suppressed. */
            readonly in_force: boolean;
            readonly subject: components["schemas"]["MaskedSubject"];
            readonly requested_scope: components["schemas"]["ScopeFlags"];
            /** @description Everything that is suppressed for this subject with this opt-out, not what changed. */
            readonly scope: components["schemas"]["ScopeFlags"];
            readonly effective: components["schemas"]["EffectivePerChannel"];
            readonly effective_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            readonly warnings: readonly (components["schemas"]["Warning"] | components["schemas"]["NotWholeInV1"])[];
            readonly propagation: components["schemas"]["PropagationSummary"];
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
            readonly subject: components["schemas"]["Subject"];
            /** @description Which channels; absent means all three. A channel left out is false, and false takes nothing away. At least one must be true. */
            readonly scope?: {
                readonly email?: boolean;
                readonly sms?: boolean;
                readonly push?: boolean;
            };
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
            /** @description Kept sealed, and in no answer. No control characters except tabs and line ends. */
            readonly note?: string;
            /** @description For clients that cannot set the header Idempotency-Key. If both are given and differ, the request is refused. */
            readonly idempotency_key?: string;
        };
        readonly OutstandingDecision: {
            readonly seq: number;
            readonly opt_out_id: components["schemas"]["Id"] | null;
            /** @description Of two decisions about one subject, the higher is the newer. */
            readonly version: number;
            readonly subject_id: components["schemas"]["Id"];
            /** @enum {string} */
            readonly kind: "email" | "phone" | "push_token" | "person_id";
            /** @description Scope → since when. */
            readonly suppressed: {
                readonly [key: string]: components["schemas"]["Instant"];
            };
            /** @description Scopes that the person's consent took away: clear them if the store holds an older version. */
            readonly granted: {
                readonly [key: string]: {
                    readonly at: components["schemas"]["Instant"];
                    readonly version: number;
                };
            };
            readonly effective_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description The address, sealed with a transport key, base64url; null once it is erased. */
            readonly sealed: string | null;
            readonly transport_key_id: number | null;
            readonly attempts: number;
            /** @description How many times another try was asked for since the last one failed. Repeat it in the report of this try: one that was already under way does not answer the request. */
            readonly asked?: number;
            /** @enum {string} */
            readonly lane: "live" | "backfill";
        };
        readonly OutstandingPage: {
            readonly generation: number;
            readonly decisions: readonly components["schemas"]["OutstandingDecision"][];
            readonly next: string | null;
            /**
             * @description Carry nothing, wherever you learned of it.
             * @constant
             */
            readonly paused?: true;
            /**
             * @description `worker` does not hold the store's lease and gets nothing, whatever is outstanding.
             * @constant
             */
            readonly unleased?: true;
            /** @description Since when the store has been told of everything that it is told of now (when it was added, pointed elsewhere, widened or put in service again). An earlier grant clears nothing there if the store was told nothing else of that person. Present only if asked for. */
            readonly target_since?: components["schemas"]["Instant"];
        };
        readonly Parked: {
            readonly store: string;
            readonly seq: number;
            readonly opt_out_id: components["schemas"]["Id"] | null;
            readonly subject_id: components["schemas"]["Id"];
            /** @enum {string} */
            readonly subject_kind: "email" | "phone" | "push_token" | "person_id";
            readonly version: number;
            /** @enum {string} */
            readonly kind: "quarantine" | "redrive" | "absent";
            readonly code: string | null;
            readonly attempts: number;
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Of the oldest decision that it speaks for, as the lag counts it. */
            readonly age_seconds: number;
            readonly since: components["schemas"]["Instant"];
            readonly next_try_at: components["schemas"]["Instant"];
        };
        readonly ParkedInFull: {
            readonly store: string;
            readonly seq: number;
            readonly opt_out_id: components["schemas"]["Id"] | null;
            readonly subject_id: components["schemas"]["Id"];
            /** @enum {string} */
            readonly subject_kind: "email" | "phone" | "push_token" | "person_id";
            readonly version: number;
            /** @enum {string} */
            readonly kind: "quarantine" | "redrive" | "absent";
            readonly code: string | null;
            readonly attempts: number;
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Of the oldest decision that it speaks for, as the lag counts it. */
            readonly age_seconds: number;
            readonly since: components["schemas"]["Instant"];
            readonly next_try_at: components["schemas"]["Instant"];
            readonly generation: number;
            /** @description It speaks for every unsettled decision of its subject from this number to its own. */
            readonly speaks_from: number;
            /** @description The subject's version now. If the store takes a newer one, that settles this as well. */
            readonly newest_version: number;
            /** @description What the store last proved about this subject. */
            readonly last_evidence: {
                readonly seq: number;
                readonly version: number;
                readonly outcome: string;
                readonly held: {
                    readonly version: number | null;
                    readonly suppressed: readonly string[];
                };
                readonly acknowledged_at: components["schemas"]["Instant"];
                readonly worker: string;
            } | null;
        };
        readonly ParkedList: {
            /** @constant */
            readonly object: "list";
            /** @description Oldest first. */
            readonly quarantine: readonly components["schemas"]["Parked"][];
            readonly next_cursor: string | null;
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
            /** @description Channels that no required store covers for this kind of subject. */
            readonly uncovered: readonly ("email" | "sms" | "push")[];
            /** @description The stores that must hold it. */
            readonly stores: readonly components["schemas"]["StorePropagation"][];
        };
        /** @description Null means not known, never zero. */
        readonly PropagationLag: {
            readonly as_of: components["schemas"]["Instant"];
            /**
             * @description The worst of the required stores.
             * @enum {string}
             */
            readonly status: "ok" | "paused" | "backfilling" | "late" | "unknown";
            /** @description Channels that no required store covers. */
            readonly uncovered: readonly ("email" | "sms" | "push")[];
            readonly sources: readonly components["schemas"]["SourceLag"][];
            readonly stores: readonly components["schemas"]["StoreLag"][];
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
            /** @description Channels that no required store covers for this kind of subject. */
            readonly uncovered: readonly ("email" | "sms" | "push")[];
            /** @description Where to read it store by store. */
            readonly url: string;
        };
        readonly ReconciliationBegun: {
            readonly store: string;
            readonly id: number;
        };
        readonly ReconciliationPage: {
            readonly page: {
                readonly run: number;
                readonly generation: number;
                readonly after: components["schemas"]["Id"];
                readonly through: components["schemas"]["Id"];
                readonly last: boolean;
                readonly decisions: readonly components["schemas"]["Decision"][];
                /** @description Report what the store suppresses by itself of these scopes. */
                readonly own?: {
                    readonly scopes: readonly string[];
                    /** @description Not due to the store: read them back only for what it suppresses by itself. */
                    readonly others: readonly components["schemas"]["Decision"][];
                };
                /** @description Wait this long before the next page. */
                readonly pause_ms: number;
            } | null;
        };
        /** @description How many subjects it found in each condition. */
        readonly ReconciliationPass: {
            readonly id: number;
            /** @description Somebody asked for it, so it ran at full speed. */
            readonly asked: boolean;
            /** @description How far the store had been verified when the pass began. */
            readonly through: number;
            readonly started_at: components["schemas"]["Instant"];
            readonly finished_at: components["schemas"]["Instant"] | null;
            readonly compared: number;
            /** @description Not held. */
            readonly missing: number;
            /** @description Held as it was before: the store went back in time. */
            readonly older: number;
            /** @description Held in this version, but not suppressed. */
            readonly resurrected: number;
            /** @description Held in a version that the ledger never gave. */
            readonly ahead: number;
            /** @description Suppressed beyond what was decided: by the store itself. */
            readonly own: number;
            /** @description How many of these were recorded as opt-outs; absent if the configuration does not ask for that. */
            readonly recorded?: number;
            /** @description Cannot be compared: the address was erased. */
            readonly unread: number;
        };
        readonly ReconciliationPasses: {
            readonly store: string;
            /** @description Newest first. */
            readonly passes: readonly components["schemas"]["ReconciliationPass"][];
            /** @description The latest pass over the store's own list, if what it suppresses by itself is recorded. */
            readonly listing?: {
                readonly asked: boolean;
                readonly started_at: components["schemas"]["Instant"];
                readonly finished_at: components["schemas"]["Instant"] | null;
                /** @description Entries of the store that were read. */
                readonly listed: number;
                /** @description People whom only the store knew: opt-outs that were recorded. */
                readonly recorded: number;
                /** @description Entries that are not an address of their kind. */
                readonly unread: number;
            };
        };
        readonly RecordedOptOut: {
            /** @constant */
            readonly object: "opt_out";
            /** @constant */
            readonly api_version: "v1";
            readonly id: components["schemas"]["Id"];
            /**
             * @description `already_opted_out`: nothing would change; this is the opt-out that covers the request. `already_recorded`: the same opt-out was recorded before a later grant, and is not in force.
             * @enum {string}
             */
            readonly outcome: "recorded" | "already_opted_out" | "already_recorded";
            /**
             * @description Present only with `already_recorded`.
             * @constant
             */
            readonly in_force?: false;
            readonly subject: components["schemas"]["MaskedSubject"];
            readonly requested_scope: components["schemas"]["ScopeFlags"];
            /** @description Everything that is suppressed for this subject with this opt-out, not what changed. */
            readonly scope: components["schemas"]["ScopeFlags"];
            readonly effective: components["schemas"]["EffectivePerChannel"];
            readonly effective_at: components["schemas"]["Instant"];
            readonly received_at: components["schemas"]["Instant"];
            readonly recorded_at: components["schemas"]["Instant"];
            /** @description Your key, or `auto_` and the id. */
            readonly idempotency_key: string;
            /** @description Present only if something was taken differently from how it was stated. */
            readonly adjustments?: readonly components["schemas"]["Adjustment"][];
            readonly warnings: readonly components["schemas"]["Warning"][];
            readonly propagation: components["schemas"]["PropagationSummary"];
        };
        readonly RetryAnswer: {
            readonly retried: number;
        };
        /** @description Exactly one of these: a number, all with a code, or everything. */
        readonly RetryRequest: {
            readonly seq?: number;
            readonly code?: string;
            /** @constant */
            readonly all?: true;
        };
        /** @description What was asked for. */
        readonly ScopeFlags: {
            readonly email: boolean;
            readonly sms: boolean;
            readonly push: boolean;
        };
        readonly SourceLag: {
            readonly kind: string;
            /** @enum {string} */
            readonly status: "ok" | "catching_up" | "polling" | "down" | "unknown";
            readonly position_age_seconds: number | null;
            readonly retained_wal_bytes: number | null;
            readonly slot: string | null;
            readonly task?: string;
            /** @description Over Kafka: records of the topic that could not be read since the worker started. */
            readonly parked?: number;
            /** @description Decisions that the stream lost and the ledger drove itself: an alarm. */
            readonly redriven: number;
        };
        readonly StoreLag: {
            readonly store: string;
            readonly connector: string;
            readonly required: boolean;
            /** @enum {string} */
            readonly status: "ok" | "paused" | "backfilling" | "late" | "unknown";
            /**
             * @description It is paused, also if its status is a worse one.
             * @constant
             */
            readonly paused?: true;
            /** @enum {string} */
            readonly evidence: "read_back" | "applied" | "relay";
            /** @description Decisions that it must hold and has not confirmed. */
            readonly outstanding: number | null;
            /**
             * @description The count stopped at 10,000, or the store is being filled: whom that has not reached is not counted.
             * @constant
             */
            readonly outstanding_is_at_least?: true;
            /** @description The lag. 0 only if it is known that there is none; null while a back-fill may have some, or the clock was set back since. */
            readonly oldest_outstanding_seconds: number | null;
            /** @description Decisions about people whom the store does not know, or whose address was erased before it was told. */
            readonly absent: number | null;
            /** @description Those of the outstanding that it keeps failing. */
            readonly quarantined: number | null;
            /** @description Every decision up to here is confirmed. */
            readonly verified_through: number | null;
            readonly last_acknowledged_at: components["schemas"]["Instant"] | null;
            readonly latency_ms: {
                readonly count: number;
                readonly p50: number | null;
                readonly p95: number | null;
                readonly p99: number | null;
                readonly max: number | null;
                readonly window_seconds: number;
            };
            readonly worker: {
                readonly instances: number;
                readonly last_seen_at: components["schemas"]["Instant"] | null;
            };
            readonly last_error: {
                readonly code: string;
                readonly at: components["schemas"]["Instant"];
            } | null;
            readonly backfill: {
                readonly remaining: number;
                readonly started_at: components["schemas"]["Instant"];
            } | null;
            /** @description Age of the newest canary that it acknowledged. */
            readonly canary_age_seconds: number | null;
            /** @description What it had acknowledged, was found not to hold, and does not hold again yet. */
            readonly drift: number | null;
            /** @description A whole pass found that it holds everything up to here. */
            readonly reconciled_through: number | null;
            readonly drain_eta_seconds: number | null;
        };
        readonly StorePropagation: {
            readonly store: string;
            readonly required: boolean;
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
        /** @description Exactly one identifier of a person: an email address, a phone number (E.164, or as it is written in the configured region), a push token, or your own id for the person. Values are brought into a normal form, and appear in no answer, log or error. */
        readonly Subject: {
            readonly email?: string;
            readonly phone?: string;
            readonly push_token?: string;
            readonly person_id?: string;
        };
        readonly SubjectLookup: {
            readonly subject: components["schemas"]["Subject"];
        };
        readonly SubjectState: {
            /** @constant */
            readonly object: "subject";
            readonly subject: components["schemas"]["MaskedSubject"];
            /** @description What is suppressed now. */
            readonly scope: components["schemas"]["ScopeFlags"];
            readonly effective: components["schemas"]["EffectivePerChannel"];
            /** @description Newest first, at most 100. */
            readonly opt_outs: readonly components["schemas"]["OptOut"][];
            /** @description Of the newest opt-out; null if there is none. */
            readonly propagation: components["schemas"]["PropagationSummary"] | null;
        };
        readonly TransportKey: {
            readonly id: number;
            /** @description 32 bytes for AES-256-GCM, base64url. */
            readonly key: string;
        };
        /** @description This identifier does not reach the channel: opt out the other identifier as well. */
        readonly Warning: {
            /** @constant */
            readonly code: "channel_needs_other_identifier";
            /** @enum {string} */
            readonly channel: "email" | "sms" | "push";
            readonly detail: string;
        };
    };
    responses: {
        /** @description `another-stanza`: The configuration says otherwise of this store. Give the worker the same stanza as the API: the same target, key form, scopes and kinds of subject. */
        readonly AnotherStanza: {
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
            readonly 422: components["responses"]["InvalidValue"];
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
            /** @description The state of the subject. */
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
    readonly getPropagationLag: {
        readonly parameters: {
            readonly query?: {
                /** @description Answers 503 with the same body if the status is late or unknown: for a pager. */
                readonly fail_on?: "late";
            };
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The lag. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["PropagationLag"];
                };
            };
            readonly 400: components["responses"]["InvalidRequest"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            /**
             * @description With `fail_on=late`: the status is late or unknown.
             *
             *     `issuer-unavailable`: The token cannot be checked. Its issuer's keys cannot be fetched: repeat after `Retry-After`, or use an API key.
             *
             *     `ledger-unavailable`: The ledger cannot be reached. Repeat with the same key: either nothing was recorded, or the same key finds what was.
             *
             *     `overloaded`: Too much at once. Repeat after `Retry-After`; nothing was recorded.
             */
            readonly 503: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly "Retry-After": components["headers"]["Retry-After"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["PropagationLag"];
                    readonly "application/problem+json": components["schemas"]["Problem"];
                };
            };
        };
    };
    readonly followPropagationLag: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description Lasts for as long as you listen and the key is valid. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "text/event-stream": string;
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
    readonly getGate: {
        readonly parameters: {
            readonly query?: {
                /** @description Also hold if the oldest outstanding decision is older than this; absent: only if the store is late. */
                readonly max_age_seconds?: number;
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description Send or hold. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Gate"];
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
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly listQuarantine: {
        readonly parameters: {
            readonly query?: {
                readonly limit?: number;
                /** @description `next_cursor` of the page before. */
                readonly cursor?: string;
                /** @description `absent`: the store does not know the person, or the address was erased before it was told. */
                readonly kind?: "quarantine" | "redrive" | "absent";
                /** @description Those that the store fails with this code. */
                readonly code?: string;
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
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
                    readonly "application/json": components["schemas"]["ParkedList"];
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
    readonly getQuarantined: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
                readonly seq: number;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description What is parked. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ParkedInFull"];
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
    readonly retryQuarantined: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["RetryRequest"];
            };
        };
        readonly responses: {
            /** @description How many will be tried again. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["RetryAnswer"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
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
    readonly listReconciliations: {
        readonly parameters: {
            readonly query?: {
                readonly limit?: number;
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The passes. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ReconciliationPasses"];
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
    readonly beginReconciliation: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The pass is asked for. */
            readonly 202: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly "RateLimit-Policy": components["headers"]["RateLimit-Policy"];
                    readonly RateLimit: components["headers"]["RateLimit"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ReconciliationBegun"];
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
    readonly getReconciliationPage: {
        readonly parameters: {
            readonly query: {
                readonly worker: string;
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description A page, or null. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ReconciliationPage"];
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
    readonly reportReconciliationPage: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["Comparison"];
            };
        };
        readonly responses: {
            /** @description Whether it was counted. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ComparisonAnswer"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getListingPage: {
        readonly parameters: {
            readonly query: {
                readonly worker: string;
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description Where to go on, or null. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ListingPage"];
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
    readonly reportListingPage: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["Listed"];
            };
        };
        readonly responses: {
            /** @description Whether it was taken. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["ComparisonAnswer"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly acknowledge: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path?: never;
            readonly cookie?: never;
        };
        readonly requestBody: {
            readonly content: {
                readonly "application/json": components["schemas"]["AcknowledgementReport"];
            };
        };
        readonly responses: {
            /** @description What was accepted, what was not, and why. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["AcknowledgementAnswer"];
                };
            };
            readonly 400: components["responses"]["InvalidRequestOrMalformedJson"];
            readonly 401: components["responses"]["Unauthenticated"];
            readonly 403: components["responses"]["MissingScope"];
            readonly 404: components["responses"]["NotFound"];
            readonly 413: components["responses"]["TooLarge"];
            readonly 415: components["responses"]["UnsupportedMediaType"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly listOutstanding: {
        readonly parameters: {
            readonly query?: {
                /** @description `next` of the page before. */
                readonly after?: string;
                readonly limit?: number;
                /** @description Your worker's id: the page is empty until its reports have taken the store's lease. */
                readonly worker?: string;
                /** @description Digest of the stanza that `abide worker` goes by: 409 if the API's abide.yaml describes the store differently. */
                readonly stanza?: string;
                /** @description Also says since when the name has meant this store. */
                readonly target_since?: "true";
            };
            readonly header?: {
                /** @description `wait=N` holds the answer for up to N seconds, at most 30 (RFC 7240). Absent: the answer comes at once. */
                readonly Prefer?: string;
            };
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description A page. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    /** @description The longest that the answer could be held: `wait=N`. */
                    readonly "Preference-Applied"?: string;
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["OutstandingPage"];
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
            readonly 409: components["responses"]["AnotherStanza"];
            readonly 422: components["responses"]["InvalidValue"];
            readonly 429: components["responses"]["TooManyRequests"];
            readonly 500: components["responses"]["InternalError"];
            readonly 503: components["responses"]["IssuerUnavailableOrLedgerUnavailableOrOverloaded"];
        };
    };
    readonly getCanary: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The canary. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["Canary"];
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
    readonly getNewestDecision: {
        readonly parameters: {
            readonly query?: {
                /** @description Also says how far the store was told: do not lift again what was granted by then. */
                readonly acknowledged?: "true";
            };
            readonly header?: never;
            readonly path: {
                /** @description As in `abide.yaml`. */
                readonly name: string;
                readonly subject_id: components["schemas"]["Id"];
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The newest decision. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["NewestDecision"];
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
    readonly getTransportKey: {
        readonly parameters: {
            readonly query?: never;
            readonly header?: never;
            readonly path: {
                readonly id: number;
            };
            readonly cookie?: never;
        };
        readonly requestBody?: never;
        readonly responses: {
            /** @description The key. Nothing on the way may cache it. */
            readonly 200: {
                headers: {
                    readonly "X-Request-Id": components["headers"]["X-Request-Id"];
                    readonly [name: string]: unknown;
                };
                content: {
                    readonly "application/json": components["schemas"]["TransportKey"];
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
}
