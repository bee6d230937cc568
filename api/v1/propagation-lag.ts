import { z } from 'zod';
import { SOURCE_STATUSES } from '../../suppression/acknowledgement.ts';
import { CHANNELS } from '../../suppression/scope.ts';
import { parse } from '../guard/read-body.ts';
import { Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import type { Deps } from '../deps.ts';

const Query = z.strictObject({
  fail_on: z
    .enum(['late'])
    .describe('Answers 503 with the same body if the status is late or unknown: for a pager.')
    .optional(),
});

const count = z.int().min(0).nullable();
const seconds = z.number().min(0).nullable();
const Status = z.enum(['ok', 'paused', 'backfilling', 'late', 'unknown']);
const SourceStatus = z.enum(SOURCE_STATUSES);

/** Null, wherever it stands, means not known, never zero. */
const StoreLag = z
  .object({
    store: z.string(),
    connector: z.string(),
    required: z.boolean(),
    status: Status,
    paused: z.literal(true).describe('It is paused, also if its status is a worse one.').optional(),
    evidence: z.enum(['read_back', 'applied', 'relay']),
    outstanding: count.describe('Decisions that it must hold and has not confirmed.'),
    outstanding_is_at_least: z
      .literal(true)
      .describe(
        'The count stopped at 10,000, or the store is being filled: whom that has not reached is not counted.',
      )
      .optional(),
    oldest_outstanding_seconds: seconds.describe(
      'The lag. 0 only if it is known that there is none; null while a back-fill may have some, or the clock was set back since.',
    ),
    absent: count.describe(
      'Decisions about people whom the store does not know, or whose address was erased before it was told.',
    ),
    quarantined: count.describe('Those of the outstanding that it keeps failing.'),
    verified_through: count.describe('Every decision up to here is confirmed.'),
    last_acknowledged_at: Instant.nullable(),
    latency_ms: z.object({
      count: z.int().min(0),
      p50: z.number().nullable(),
      p95: z.number().nullable(),
      p99: z.number().nullable(),
      max: z.number().nullable(),
      window_seconds: z.int().min(0),
    }),
    worker: z.object({ instances: z.int().min(0), last_seen_at: Instant.nullable() }),
    last_error: z.object({ code: z.string(), at: Instant }).nullable(),
    backfill: z.object({ remaining: z.int().min(0), started_at: Instant }).nullable(),
    canary_age_seconds: seconds.describe('Age of the newest canary that it acknowledged.'),
    drift: count.describe('What it had acknowledged, was found not to hold, and does not hold again yet.'),
    reconciled_through: count.describe('A whole pass found that it holds everything up to here.'),
    drain_eta_seconds: seconds,
  })
  .meta({ title: 'StoreLag' });

export const LagAnswer = z
  .object({
    as_of: Instant,
    status: Status.describe('The worst of the required stores.'),
    uncovered: z.array(z.enum(CHANNELS)).describe('Channels that no required store covers.'),
    sources: z.array(
      z
        .object({
          kind: z.string(),
          status: SourceStatus,
          position_age_seconds: seconds,
          retained_wal_bytes: count,
          slot: z.string().nullable(),
          task: z.string().optional(),
          parked: z
            .int()
            .min(0)
            .describe('Over Kafka: records of the topic that could not be read since the worker started.')
            .optional(),
          redriven: z
            .int()
            .min(0)
            .describe('Decisions that the stream lost and the ledger drove itself: an alarm.'),
        })
        .meta({ title: 'SourceLag' }),
    ),
    stores: z.array(StoreLag),
  })
  .meta({ title: 'PropagationLag', description: 'Null means not known, never zero.' });

export const EXAMPLE_LAG: z.input<typeof LagAnswer> = {
  as_of: '2026-11-24T09:00:05.000Z',
  status: 'ok',
  uncovered: [],
  sources: [
    {
      kind: 'pgoutput',
      status: 'ok',
      position_age_seconds: 0.4,
      retained_wal_bytes: 81920,
      slot: 'active',
      redriven: 0,
    },
  ],
  stores: [
    {
      store: 'crm',
      connector: 'postgres',
      required: true,
      status: 'ok',
      evidence: 'read_back',
      outstanding: 0,
      oldest_outstanding_seconds: 0,
      absent: 0,
      quarantined: 0,
      verified_through: 48211,
      last_acknowledged_at: '2026-11-24T09:00:00.427Z',
      latency_ms: { count: 1930, p50: 4.1, p95: 9, p99: 14.2, max: 31, window_seconds: 300 },
      worker: { instances: 1, last_seen_at: '2026-11-24T09:00:04.000Z' },
      last_error: null,
      backfill: null,
      canary_age_seconds: 12.5,
      drift: 0,
      reconciled_through: 48102,
      drain_eta_seconds: 0,
    },
  ],
};

const lag: Operation = {
  method: 'get',
  path: '/v1/propagation-lag',
  id: 'getPropagationLag',
  tag: 'Operations',
  summary: 'How far behind every store is',
  description:
    'The age of the oldest of all the decisions that a store must hold and has not confirmed, by the clock of the database.',
  scopes: ['lag:read'],
  query: Query,
  answers: {
    200: { description: 'The lag.', schema: LagAnswer },
    503: { description: 'With `fail_on=late`: the status is late or unknown.', schema: LagAnswer },
  },
  examples: {
    now: { summary: 'Everything is fine', status: 200, answer: EXAMPLE_LAG },
    failing: {
      summary: 'For a pager: the worker has not reported for ten seconds',
      query: { fail_on: 'late' },
      status: 503,
      answer: {
        ...EXAMPLE_LAG,
        status: 'unknown',
        stores: EXAMPLE_LAG.stores.map((store) => ({
          ...store,
          status: 'unknown',
          worker: { instances: 0, last_seen_at: '2026-11-24T08:59:41.000Z' },
        })),
      } satisfies z.input<typeof LagAnswer>,
    },
  },
};

export function addPropagationLag(routes: Routes, { ledger }: Deps): void {
  routes.add(lag, async (ctx) => {
    const query = parse(Query, { ...ctx.query });
    const report = await ledger.lag();
    // `unknown` ranks worse than `late`: whoever filters for late gets unknown as well.
    if (query.fail_on === 'late' && (report.status === 'late' || report.status === 'unknown'))
      ctx.status = 503;
    ctx.body = report;
  });
}
