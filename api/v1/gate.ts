// May a sender rely on a store's own copy now? No answer means hold.
import type Router from '@koa/router';
import { z } from 'zod';
import type { Gate } from '../../ledger/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { parse } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';

const Query = z.strictObject({
  max_age_seconds: z
    .string()
    .regex(/^\d{1,9}(?:\.\d{1,3})?$/, 'must be a number of seconds, 0 or more, with at most 3 decimals')
    .transform(Number)
    .optional(),
});

const render = (gate: Gate) => ({
  store: gate.store,
  answer: gate.reason === undefined ? 'send' : 'hold',
  reason: gate.reason ?? null,
  verified_through: gate.verifiedThrough ?? null,
  oldest_outstanding_seconds: gate.oldestOutstandingSeconds ?? null,
  absent: gate.absent ?? null,
  as_of: gate.asOf,
});

export function addGate(router: Router, { ledger, authorize }: Deps): void {
  router.get('/v1/stores/:name/gate', authorize('lag:read', 'checks:read'), async (ctx) => {
    const query = parse(Query, { ...ctx.query });
    const gate = await ledger.gate(ctx.params.name!, query.max_age_seconds);
    if (gate === undefined) throw new AbideError('not-found', 'The store is not registered.');
    // An answer that somebody kept on the way would let through what is held by now.
    ctx.set('Cache-Control', 'no-store');
    ctx.body = render(gate);
  });
}
