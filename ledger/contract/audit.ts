// Who asked for what.
import type { Instant } from '../../suppression/decision.ts';
import type { Budgets } from './budgets.ts';

/** Who asks, for the audit log. */
export type Caller = {
  readonly client: string;
  readonly keyId: string;
  readonly address: string;
  readonly requestId: string;
  readonly budgets?: Budgets | undefined;
};

export type AuditEntry = {
  readonly seq: number;
  readonly at: Instant;
  readonly client: string | undefined;
  readonly keyId: string | undefined;
  readonly callerAddress: string | undefined;
  readonly action: string;
  readonly resource: string | undefined;
  readonly requestId: string | undefined;
  readonly details: Record<string, unknown>;
};
