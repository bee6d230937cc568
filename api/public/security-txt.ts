// Whom to tell of a weakness (RFC 9116), if the configuration says so. No login, since somebody who finds one may have none.
import type Router from '@koa/router';

export type SecurityContact = {
  /** `mailto:…`, `https://…` or `tel:…`. */
  readonly contact: string;
  /** How reports are handled; undefined: nothing is said. */
  readonly policy: string | undefined;
};

/**
 * How long the text is valid once it was read. Short, since any start may change it; counted from the day of the answer, so that no
 * running installation ever serves one that has expired.
 */
const GOOD_FOR_DAYS = 30;
const DAY_MS = 86_400_000;

export function securityTxt({ contact, policy }: SecurityContact, nowMs: number): string {
  const expires = new Date((Math.floor(nowMs / DAY_MS) + GOOD_FOR_DAYS) * DAY_MS);
  return [
    `Contact: ${contact}`,
    `Expires: ${expires.toISOString()}`,
    ...(policy === undefined ? [] : [`Policy: ${policy}`]),
    '',
  ].join('\n');
}

export function addSecurityTxt(router: Router, security: SecurityContact): void {
  router.get('/.well-known/security.txt', (ctx) => {
    ctx.type = 'text/plain; charset=utf-8';
    ctx.body = securityTxt(security, Date.now());
  });
}
