import type { Ledger } from '../ledger/contract/ledger.ts';
import type { DeclaredScopes } from '../suppression/scope.ts';

export type ApiLog = Record<'warn' | 'error', (fields: object, message: string) => void>;

/** What every resource is given. */
export type Deps = {
  readonly ledger: Ledger;
  /** For phone numbers without a country; ISO 3166. */
  readonly defaultRegion: string | undefined;
  readonly declared: DeclaredScopes;
  /** A file with more rows waits for another key's approval. */
  readonly approveAboveRows: number;
  readonly log: ApiLog;
  /** Ends every wait when this server stops. */
  readonly closing: AbortSignal;
};
