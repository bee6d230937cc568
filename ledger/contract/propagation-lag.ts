// How far each store is behind, as operations see it. It is answered as it stands here, hence the names.
import type { SourceReport } from '../../suppression/acknowledgement.ts';
import type { Instant } from '../../suppression/decision.ts';
import type { Channel } from '../../suppression/scope.ts';

export type LagStatus = 'ok' | 'paused' | 'backfilling' | 'late' | 'unknown';

export type StoreLag = {
  readonly store: string;
  readonly connector: string;
  readonly required: boolean;
  readonly status: LagStatus;
  /** Of a paused store, whose status may be a worse one. */
  readonly paused?: true;
  readonly evidence: 'read_back' | 'applied' | 'relay';
  readonly outstanding: number | null;
  /** If the count stopped at 10,000, `outstanding` is at least that many. */
  readonly outstanding_is_at_least?: true;
  readonly oldest_outstanding_seconds: number | null;
  readonly absent: number | null;
  readonly quarantined: number | null;
  readonly verified_through: number | null;
  readonly last_acknowledged_at: Instant | null;
  readonly latency_ms: {
    readonly count: number;
    readonly p50: number | null;
    readonly p95: number | null;
    readonly p99: number | null;
    readonly max: number | null;
    readonly window_seconds: number;
  };
  readonly worker: { readonly instances: number; readonly last_seen_at: Instant | null };
  readonly last_error: { readonly code: string; readonly at: string } | null;
  readonly backfill: { readonly remaining: number; readonly started_at: Instant } | null;
  /** The age of the newest canary that the store has acknowledged; null: there is none. */
  readonly canary_age_seconds: number | null;
  /** Decisions that the store had acknowledged, was found not to hold and does not hold again yet; outstanding all the same. */
  readonly drift: number | null;
  /** A whole pass found that the store holds everything up to here; null: there was no such pass in this generation. */
  readonly reconciled_through: number | null;
  readonly drain_eta_seconds: number | null;
};

export type SourceLag = {
  readonly kind: string;
  readonly status: SourceReport['status'];
  readonly position_age_seconds: number | null;
  readonly retained_wal_bytes: number | null;
  readonly slot: string | null;
  readonly task?: string;
  /** Over Kafka: how many records a worker could not read since it started, of the worker with the most. */
  readonly parked?: number;
  readonly redriven: number;
};

export type LagReport = {
  readonly as_of: Instant;
  readonly status: LagStatus;
  readonly uncovered: readonly Channel[];
  readonly sources: readonly SourceLag[];
  readonly stores: readonly StoreLag[];
};
