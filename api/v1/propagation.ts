import type Router from '@koa/router';
import type { Propagation } from '../../ledger/ledger.ts';
import { goneSignal, preferredWait, waited } from '../guard/prefer.ts';
import type { Deps } from './deps.ts';
import { findVisible } from './opt-outs.ts';

const render = (id: string, propagation: Propagation) => ({
  id,
  state: propagation.state,
  required: propagation.required,
  confirmed: propagation.confirmed,
  verified: propagation.verified,
  first_completed_at: propagation.firstCompletedAt ?? null,
  uncovered: propagation.uncovered,
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

export function addPropagation(router: Router, { ledger, authorize, closing }: Deps): void {
  router.get('/v1/opt-outs/:id/propagation', authorize('opt_outs:read'), async (ctx) => {
    const wait = preferredWait(ctx);
    const { optOut, propagation } = await findVisible(ctx, ledger, ctx.params.id!);
    const ofThen =
      wait === undefined || wait === 0
        ? propagation
        : await ledger.waitForPropagation(optOut.id, wait * 1000, goneSignal(ctx, closing));
    waited(ctx, wait);
    ctx.body = render(optOut.id, ofThen);
  });
}
