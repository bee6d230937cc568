import type Router from '@koa/router';
import { z } from 'zod';
import { parse } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';

const Query = z.strictObject({ fail_on: z.enum(['late']).optional() });

export function addPropagationLag(router: Router, { ledger, authorize }: Deps): void {
  router.get('/v1/propagation-lag', authorize('lag:read'), async (ctx) => {
    const query = parse(Query, { ...ctx.query });
    const report = await ledger.lag();
    // Unknown is worse than late: whoever wants to hear of the one wants to hear of the other.
    if (query.fail_on === 'late' && (report.status === 'late' || report.status === 'unknown'))
      ctx.status = 503;
    ctx.body = report;
  });
}
