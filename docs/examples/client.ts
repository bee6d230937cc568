import { AbideProblem, createAbide } from 'abide/client';

const abide = createAbide({ url: process.env['ABIDE_URL']!, key: process.env['ABIDE_KEY']! });

/** Somebody clicked on "unsubscribe": gives whether every store abides by it already. */
export async function unsubscribe(email: string, ticket: string): Promise<boolean> {
  const optOut = { identifiers: [{ email }], scopes: ['email'], reason: 'person_request' } as const;
  // Under a name of your own it is one opt-out, also where this program ends midway and begins again.
  const { id } = await abide.optOuts.create(optOut, { idempotencyKey: ticket });
  try {
    await abide.optOuts.waitUntilPropagated(id, { timeoutMs: 10_000 });
    return true;
  } catch (error) {
    // It is recorded, and is carried to the stores without you, whatever kept you from seeing that.
    if (error instanceof AbideProblem) return false;
    throw error;
  }
}

/** Of these addresses, those that may be written to now. Where this throws there is no answer: write to nobody. */
export async function reachable(emails: readonly string[]): Promise<string[]> {
  const { items } = await abide.checks.ask(
    emails.map((email) => ({ identifiers: [{ email }], scope: 'email' })),
  );
  return emails.filter((_, n) => items[n]!.allowed);
}

/** What was recorded and has not arrived everywhere. */
export async function pending(): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of abide.optOuts.list({ state: 'pending' })) ids.push(id);
  return ids;
}
