// Prometheus metrics. No label ever holds an address, a subject or free text.
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { DIRECTIONS } from '../../ledger/contract/budgets.ts';
import type { Direction } from '../../ledger/contract/budgets.ts';
import type { LagReport } from '../../ledger/contract/propagation-lag.ts';
import { LIMITED } from '../guard/limits.ts';
import type { Limited } from '../guard/limits.ts';
import { ROOMS } from '../guard/rooms.ts';
import type { Room } from '../guard/rooms.ts';

export const METRIC = {
  propagation: 'abide_propagation_duration_seconds',
  acknowledgements: 'abide_acknowledgements_total',
  outstanding: 'abide_outstanding',
  oldest: 'abide_oldest_outstanding_age_seconds',
  status: 'abide_store_status',
  redriven: 'abide_redriven_total',
  requests: 'abide_http_request_duration_seconds',
  calls: 'abide_api_calls_total',
  limited: 'abide_rate_limited_total',
  budgets: 'abide_budget_exhausted_total',
  refused: 'abide_overloaded_total',
  held: 'abide_http_requests_held',
} as const;

const STATUSES = ['ok', 'paused', 'backfilling', 'late', 'unknown'] as const;

export type Metrics = {
  /** What a store has just acknowledged. */
  settled(
    store: string,
    channels: readonly string[],
    settled: readonly { outcome: string; latencyMs: number; carriedBy: string }[],
  ): void;
  request(method: string, route: string, status: number, seconds: number): void;
  /** Calls to a version of the API by keys that were let in. */
  called(version: string, times?: number): void;
  /** A call was refused because its key, or its address, makes too many. */
  limited(of: Limited): void;
  /** Something was refused because a key's daily budget is spent. */
  exhausted(direction: Direction): void;
  /** A request was refused because so many are held already. */
  refused(of: Room | 'bodies'): void;
  /** The text that /metrics answers; gauges have their current values. */
  render(lag: () => Promise<LagReport>): Promise<string>;
};

/** `held`: the requests that are not answered to their end now. */
export function createMetrics(held: () => Readonly<Record<string, number>> = () => ({})): Metrics {
  const registers = [new Registry()];
  const [registry] = registers as [Registry];
  collectDefaultMetrics({ register: registry });
  const propagation = new Histogram({
    name: METRIC.propagation,
    help: 'From the decision recorded to the store read back, by the clock of the database',
    labelNames: ['store', 'channel'],
    buckets: [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600],
    registers,
  });
  const acknowledgements = new Counter({
    name: METRIC.acknowledgements,
    help: 'Decisions that the ledger settled',
    labelNames: ['store', 'outcome'],
    registers,
  });
  const requests = new Histogram({
    name: METRIC.requests,
    help: 'HTTP requests',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30],
    registers,
  });
  const calls = new Counter({
    name: METRIC.calls,
    help: 'Calls that a key was let in for, by version of the API',
    labelNames: ['version'],
    registers,
  });
  const limited = new Counter({
    name: METRIC.limited,
    help: 'Calls refused because their key or their address makes too many',
    labelNames: ['of'],
    registers,
  });
  const budgets = new Counter({
    name: METRIC.budgets,
    help: "Requests refused because their key's budget of the day is spent",
    labelNames: ['direction'],
    registers,
  });
  const refused = new Counter({
    name: METRIC.refused,
    help: 'Requests refused because as much as may be is held already',
    labelNames: ['of'],
    registers,
  });
  const requestsHeld = new Gauge({
    name: METRIC.held,
    help: 'Requests that are not answered to their end',
    labelNames: ['room'],
    registers,
  });
  // Set from the start, or an alarm on an increase would miss the first one: a series that begins with 1 has not increased.
  for (const of of LIMITED) limited.inc({ of }, 0);
  for (const direction of DIRECTIONS) budgets.inc({ direction }, 0);
  for (const of of [...(Object.keys(ROOMS) as Room[]), 'bodies']) refused.inc({ of }, 0);
  const gauge = (name: string, help: string, ...more: string[]) =>
    new Gauge({ name, help, labelNames: ['store', ...more], registers });
  const outstanding = gauge(METRIC.outstanding, 'Decisions that a store must hold and has not acknowledged');
  const oldest = gauge(METRIC.oldest, 'Age of the oldest of them; NaN while it is not known');
  const status = gauge(METRIC.status, '1 for the status that the store has now', 'status');
  // A counter of the ledger's own, which this process only passes on.
  const redriven = new Counter({
    name: METRIC.redriven,
    help: 'Decisions that the stream lost and the ledger drove again',
    labelNames: ['source'],
    registers,
  });

  /** The known stores, also while the ledger cannot be asked: then all of them are unknown, not gone. */
  let known: LagReport | undefined;

  return {
    settled: (store, channels, settled) => {
      for (const { outcome, latencyMs, carriedBy } of settled) {
        acknowledgements.inc({ store, outcome });
        if (carriedBy === 'backfill') continue;
        for (const channel of channels) propagation.observe({ store, channel }, latencyMs / 1000);
      }
    },
    called: (version, times = 1) => calls.inc({ version }, times),
    limited: (of) => limited.inc({ of }),
    exhausted: (direction) => budgets.inc({ direction }),
    refused: (of) => refused.inc({ of }),
    request: (method, route, code, seconds) => requests.observe({ method, route, status: code }, seconds),
    render: async (lag) => {
      // Scrapes may overlap, but not between here and the next await.
      const report = await lag().catch(() => undefined);
      if (report !== undefined) known = report;
      for (const [room, count] of Object.entries(held())) requestsHeld.set({ room }, count);
      for (const one of [outstanding, oldest, status]) one.reset();
      for (const store of known?.stores ?? []) {
        const labels = { store: store.store };
        const now = report === undefined ? 'unknown' : store.status;
        outstanding.set(labels, (report && store.outstanding) ?? NaN);
        oldest.set(labels, (report && store.oldest_outstanding_seconds) ?? NaN);
        for (const each of STATUSES) status.set({ ...labels, status: each }, each === now ? 1 : 0);
      }
      const byKind = new Map<string, number>();
      for (const source of known?.sources ?? [])
        byKind.set(source.kind, (byKind.get(source.kind) ?? 0) + source.redriven);
      redriven.reset();
      for (const [source, count] of byKind) redriven.inc({ source }, count);
      return await registry.metrics();
    },
  };
}
