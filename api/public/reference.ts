// What the API is, for whoever asks: no login, since it holds nothing that the package does not.
import type Router from '@koa/router';
import type { Operation } from '../operation.ts';
import { toOpenApi, toText } from './openapi.ts';
import { REFERENCE_POLICY, renderReference } from './reference-page.ts';

export function addReference(router: Router, operations: readonly Operation[]): void {
  // Made when somebody asks: it takes longer than anything else of a start.
  let made: { readonly text: string; readonly page: string } | undefined;
  const reference = (): NonNullable<typeof made> => {
    if (made !== undefined) return made;
    const document = toOpenApi(operations);
    return (made = { text: toText(document), page: renderReference(document) });
  };

  router.get('/openapi.json', (ctx) => {
    // For tools that run in a page of another origin: there is no credential that it could borrow.
    ctx.set('Access-Control-Allow-Origin', '*');
    ctx.type = 'application/json';
    ctx.body = reference().text;
  });

  router.get('/docs', (ctx) => {
    ctx.set('Content-Security-Policy', REFERENCE_POLICY);
    ctx.type = 'text/html; charset=utf-8';
    ctx.body = reference().page;
  });
}
