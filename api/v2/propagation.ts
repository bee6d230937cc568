import { z } from 'zod';
import type { FoundSubject } from '../../ledger/contract/opt-outs.ts';
import type { DecisionPropagation, Propagation } from '../../ledger/contract/propagation.ts';
import type { Deps } from '../deps.ts';
import { beginWait, PREFER, PREFERENCE_APPLIED, preferredWait, waitedStillValid } from '../guard/prefer.ts';
import { findVisible } from '../guard/visible.ts';
import { Id, Instant } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { PROPAGATION_COUNTS, STORE_STATES } from '../propagation-shape.ts';
import { MaskedIdentifier } from './identifier.ts';
import { OPT_OUT_ID, RECORDED_AT, UncoveredScopes } from './opt-outs.ts';

const PropagationAnswer = z
  .object({
    object: z.literal('propagation'),
    id: Id.describe("The opt-out's."),
    ...PROPAGATION_COUNTS,
    first_completed_at: Instant.nullable().describe('Once it is set, it stays.'),
    uncovered: UncoveredScopes,
    stores: z
      .array(
        z
          .object({
            store: z.string(),
            required: z.boolean(),
            state: STORE_STATES.state.describe(
              'The state of its decision that is furthest behind: `verified` only if every one is.',
            ),
            decisions: z
              .array(
                z
                  .object({ identifier: MaskedIdentifier, ...STORE_STATES })
                  .meta({ title: 'DecisionPropagation' }),
              )
              .describe('One per identifier that the store must hold.'),
          })
          .meta({ title: 'StorePropagation' }),
      )
      .describe('The stores that must hold it.'),
  })
  .meta({ title: 'Propagation' });

const toDecision = (
  decision: DecisionPropagation,
  subjects: readonly FoundSubject[],
): z.input<typeof PropagationAnswer>['stores'][number]['decisions'][number] => {
  const subject = subjects.find(({ id }) => id === decision.subjectId)!;
  return {
    identifier: { kind: subject.kind, masked: subject.masked ?? null },
    state: decision.state,
    recorded_at: decision.recordedAt,
    applied_at: decision.appliedAt ?? null,
    verified_at: decision.verifiedAt ?? null,
    acknowledged_at: decision.acknowledgedAt ?? null,
    latency_ms: decision.latencyMs ?? null,
    attempts: decision.attempts ?? null,
    reason: decision.reason ?? null,
  };
};

const render = (
  id: string,
  subjects: readonly FoundSubject[],
  propagation: Propagation,
): z.input<typeof PropagationAnswer> => ({
  object: 'propagation',
  id,
  state: propagation.state,
  required: propagation.required,
  confirmed: propagation.confirmed,
  verified: propagation.verified,
  first_completed_at: propagation.firstCompletedAt ?? null,
  uncovered: [...propagation.uncovered],
  stores: propagation.stores.map(({ store, required, state, decisions }) => ({
    store,
    required,
    state,
    decisions: decisions.map((decision) => toDecision(decision, subjects)),
  })),
});

export function addPropagation(routes: Routes, { ledger, closing }: Deps): void {
  const propagation: Operation = {
    method: 'get',
    path: '/v2/opt-outs/:id/propagation',
    id: 'getPropagation',
    tag: 'Opt-outs',
    summary: 'How far an opt-out has come, store by store and identifier by identifier',
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
          object: 'propagation',
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
              decisions: [
                {
                  identifier: { kind: 'email', masked: 'a••@e••.com' },
                  state: 'verified',
                  recorded_at: RECORDED_AT,
                  applied_at: '2026-11-24T09:00:00.419Z',
                  verified_at: '2026-11-24T09:00:00.422Z',
                  acknowledged_at: '2026-11-24T09:00:00.427Z',
                  latency_ms: 15,
                  attempts: 1,
                  reason: null,
                },
              ],
            },
          ],
        } satisfies z.input<typeof PropagationAnswer>,
      },
    },
  };

  routes.add(propagation, async (ctx) => {
    const wait = preferredWait(ctx);
    const { optOut, subjects, propagation: ofNow } = await findVisible(ctx, ledger, ctx.params.id!);
    const ofThen =
      wait === undefined || wait === 0
        ? ofNow
        : await ledger.waitForPropagation(optOut.id, wait * 1000, beginWait(ctx, closing));
    await waitedStillValid(ctx, wait);
    ctx.body = render(optOut.id, subjects, ofThen);
  });
}
