// The public keys that receipts are checked with. No login: whoever was handed a receipt need not be a client.
import type Router from '@koa/router';
import type { Ledger } from '../../ledger/contract/ledger.ts';

export const RECEIPT_KEYS_PATH = '/.well-known/abide-receipt-keys.json';

export function addReceiptKeys(router: Router, { signing }: Pick<Ledger, 'signing'>): void {
  router.get(RECEIPT_KEYS_PATH, (ctx) => {
    ctx.type = 'application/jwk-set+json';
    ctx.body = JSON.stringify({ keys: signing.publicKeys });
  });
}
