import type Router from '@koa/router';
import { z } from 'zod';
import { mask } from '../../suppression/subject.ts';
import { parse, readJson } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';
import { effectiveOf, renderFound, scopeOf } from './opt-outs.ts';
import { createSubjectSchema } from './subject.ts';

export function addSubjects(router: Router, { ledger, authorize, defaultRegion }: Deps): void {
  const Lookup = z.strictObject({ subject: createSubjectSchema(defaultRegion) });

  // By POST, so that no address stands in a URL.
  router.post('/v1/subjects/lookup', authorize('subjects:read'), async (ctx) => {
    const { subject } = parse(Lookup, await readJson(ctx));
    const { state, optOuts } = await ledger.lookupSubject(subject);
    const found = optOuts.map(renderFound);
    ctx.body = {
      object: 'subject',
      subject: { kind: subject.kind, masked: mask(subject) },
      scope: scopeOf(state),
      effective: effectiveOf(state),
      opt_outs: found,
      propagation: found[0]?.propagation ?? null,
    };
  });
}
