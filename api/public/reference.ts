// What the API is, for anybody who asks: no login, since it contains nothing that the package does not.
import type Router from '@koa/router';
import { documentOf, newestOf, pageOf, servedVersions } from '../version.ts';
import type { Versions } from '../version.ts';
import { toOpenApi, toText } from './openapi.ts';
import { REFERENCE_POLICY, renderReference } from './reference-page.ts';

/** Adds the reference of each version, and that of the newest for when none is named. */
export function addReference(router: Router, versions: Versions): void {
  // Made when somebody asks, since it takes longer than anything else in a start.
  const made = new Map<string, { readonly text: string; readonly page: string }>();
  const reference = (name: string): { readonly text: string; readonly page: string } => {
    const known = made.get(name);
    if (known !== undefined) return known;
    const document = toOpenApi(name, versions);
    const both = { text: toText(document), page: renderReference(document, name, versions) };
    made.set(name, both);
    return both;
  };

  const add = (name: string, { document, page }: { document: string; page: string }): void => {
    router.get(document, (ctx) => {
      // For tools that run in a page of another origin: there is no credential that it could borrow.
      ctx.set('Access-Control-Allow-Origin', '*');
      ctx.type = 'application/json';
      ctx.body = reference(name).text;
    });
    router.get(page, (ctx) => {
      ctx.set('Content-Security-Policy', REFERENCE_POLICY);
      ctx.type = 'text/html; charset=utf-8';
      ctx.body = reference(name).page;
    });
  };
  for (const name of servedVersions(versions)) add(name, { document: documentOf(name), page: pageOf(name) });
  add(newestOf(versions), { document: '/openapi.json', page: '/docs' });
  // Who opens the address that `abide serve` prints wants to know what is there.
  router.get('/', (ctx) => {
    ctx.redirect('/docs');
  });
}
