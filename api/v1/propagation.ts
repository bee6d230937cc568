import { z } from 'zod';
import { beginWait, PREFER, PREFERENCE_APPLIED, preferredWait, waitedStillValid } from '../guard/prefer.ts';
import { Id, Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import type { Deps } from '../deps.ts';
import type { Propagation } from '../../ledger/contract/propagation.ts';
import { isChannel } from '../../suppression/scope.ts';
import { findVisible } from '../guard/visible.ts';
import { PROPAGATION_COUNTS, STORE_STATES } from '../propagation-shape.ts';
import { OPT_OUT_ID, Uncovered } from './opt-outs.ts';

const PropagationAnswer = z
  .object({
    id: Id.describe("The opt-out's."),
    ...PROPAGATION_COUNTS,
    first_completed_at: Instant.nullable().describe('Once it is set, it stays.'),
    uncovered: Uncovered,
    stores: z
      .array(
        z
          .object({
            store: z.string(),
            required: z.boolean(),
            ...STORE_STATES,
          })
          .meta({ title: 'StorePropagation' }),
      )
      .describe('The stores that must hold it.'),
  })
  .meta({ title: 'Propagation' });

const render = (id: string, propagation: Propagation): z.input<typeof PropagationAnswer> => ({
  id,
  state: propagation.state,
  required: propagation.required,
  confirmed: propagation.confirmed,
  verified: propagation.verified,
  first_completed_at: propagation.firstCompletedAt ?? null,
  uncovered: propagation.uncovered.filter(isChannel),
  stores: propagation.stores.map((store) => ({
    store: store.store,
    required: store.required,
    state: store.state,
    recorded_at: store.recordedAt,
    applied_at: store.appliedAt ?? null,
    verified_at: store.verifiedAt ?? null,
    acknowledged_at: store.acknowledgedAt ?? null,
    latency_ms: store.latencyMs ?? null,
    attempts: store.attempts ?? null,
    reason: store.reason ?? null,
  })),
});

export function addPropagation(routes: Routes, { ledger, closing }: Deps): void {
  const propagation: Operation = {
    method: 'get',
    path: '/v1/opt-outs/:id/propagation',
    id: 'getPropagation',
    tag: 'Opt-outs',
    summary: 'How far an opt-out has come, store by store',
    description:
      'As it is now. `Prefer: wait=30` holds the answer until every required store has confirmed or the time is up.',
    scopes: ['opt_outs:read'],
    params: { id: Id },
    headers: PREFER,
    answers: {
      200: { description: 'The propagation.', schema: PropagationAnswer, headers: PREFERENCE_APPLIED },
    },
    problems: ['not-found'],
    examples: {
      complete: {
        summary: 'Every store has confirmed',
        path: { id: OPT_OUT_ID },
        headers: { Prefer: 'wait=5' },
        status: 200,
        answer: {
          id: OPT_OUT_ID,
          state: 'complete',
          required: 1,
          confirmed: 1,
          verified: 1,
          first_completed_at: '2026-11-24T09:00:00.427Z',
          uncovered: [],
          stores: [
            {
              store: 'crm',
              required: true,
              state: 'verified',
              recorded_at: '2026-11-24T09:00:00.412Z',
              applied_at: '2026-11-24T09:00:00.419Z',
              verified_at: '2026-11-24T09:00:00.422Z',
              acknowledged_at: '2026-11-24T09:00:00.427Z',
              latency_ms: 15,
              attempts: 1,
              reason: null,
            },
          ],
        } satisfies z.input<typeof PropagationAnswer>,
      },
    },
  };

  routes.add(propagation, async (ctx) => {
    const wait = preferredWait(ctx);
    const { optOut, propagation: ofNow } = await findVisible(ctx, ledger, ctx.params.id!);
    const ofThen =
      wait === undefined || wait === 0
        ? ofNow
        : await ledger.waitForPropagation(optOut.id, wait * 1000, beginWait(ctx, closing));
    await waitedStillValid(ctx, wait);
    ctx.body = render(optOut.id, ofThen);
  });
}
