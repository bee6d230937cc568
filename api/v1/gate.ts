// May a sender rely on a store's own copy now? No answer means hold.
import { z } from 'zod';
import type { Gate } from '../../ledger/contract/gate.ts';
import { AbideError } from '../../suppression/errors.ts';
import { parse } from '../guard/read-body.ts';
import { exampleProblem, Instant, StoreName } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import type { Deps } from '../deps.ts';

const Query = z.strictObject({
  max_age_seconds: z
    .string()
    .regex(/^\d{1,9}(?:\.\d{1,3})?$/, 'must be a number of seconds, 0 or more, with at most 3 decimals')
    .transform(Number)
    .meta({ type: 'number', minimum: 0, pattern: undefined })
    .describe(
      'Also hold if the oldest outstanding decision is older than this; absent: only if the store is late.',
    )
    .optional(),
});

const GateAnswer = z
  .object({
    store: z.string(),
    answer: z.enum(['send', 'hold']),
    reason: z
      .enum(['paused', 'backfilling', 'late', 'unknown', 'outstanding', 'retired'])
      .nullable()
      .describe('Why to hold.'),
    verified_through: z.int().min(0).nullable(),
    oldest_outstanding_seconds: z.number().min(0).nullable(),
    absent: z
      .int()
      .min(0)
      .nullable()
      .describe('People whom the store did not know when it was told of them.'),
    as_of: Instant,
  })
  .meta({ title: 'Gate' });

const gate: Operation = {
  method: 'get',
  path: '/v1/stores/:name/gate',
  id: 'getGate',
  tag: 'Checks',
  summary: "May a sender rely on a store's own copy now?",
  description:
    'No answer means hold. Anything but `send`, including a problem or a time-out, is `hold`. For senders that read suppressions from a store and not from here.',
  scopes: ['lag:read', 'checks:read'],
  params: { name: StoreName },
  query: Query,
  answers: { 200: { description: 'Send or hold.', schema: GateAnswer } },
  problems: ['not-found'],
  examples: {
    hold: {
      summary: 'Something has been outstanding for longer than the sender accepts',
      path: { name: 'crm' },
      query: { max_age_seconds: '0.5' },
      status: 200,
      answer: {
        store: 'crm',
        answer: 'hold',
        reason: 'outstanding',
        verified_through: 48211,
        oldest_outstanding_seconds: 3.2,
        absent: 0,
        as_of: '2026-11-24T09:00:05.000Z',
      } satisfies z.input<typeof GateAnswer>,
    },
    unknown: {
      summary: 'No store of this name: hold',
      path: { name: 'nowhere' },
      status: 404,
      answer: exampleProblem('not-found', { detail: 'The store is not registered.' }),
    },
  },
};

const render = (gate: Gate): z.input<typeof GateAnswer> => ({
  store: gate.store,
  answer: gate.reason === undefined ? 'send' : 'hold',
  reason: gate.reason ?? null,
  verified_through: gate.verifiedThrough ?? null,
  oldest_outstanding_seconds: gate.oldestOutstandingSeconds ?? null,
  absent: gate.absent ?? null,
  as_of: gate.asOf,
});

export function addGate(routes: Routes, { ledger }: Deps): void {
  routes.add(gate, async (ctx) => {
    const query = parse(Query, { ...ctx.query });
    const judged = await ledger.gate(ctx.params.name!, query.max_age_seconds);
    if (judged === undefined) throw new AbideError('not-found', 'The store is not registered.');
    // An answer that was cached on the way would let through what is held by now.
    ctx.body = render(judged);
  });
}
