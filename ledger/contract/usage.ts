import type { Instant } from '../../suppression/decision.ts';

/** A call to a version of the API by a key that was let in. */
export type Use = { readonly version: string; readonly client: string; readonly keyId: string };

/** How often a key used a version, and when it last did. */
export type Usage = Use & { readonly count: number; readonly lastAt: Instant };
