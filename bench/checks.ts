// (d) Checks, 1,000 items per call: items per second over HTTP; a tenth of the people have opted out.
import { print, printTable } from '../cli/output.ts';
import { startAbide } from '../test/harness/abide.ts';
import { createPoster, optOutBody } from './abide.ts';
import { count, judge } from './measure.ts';

const ITEMS = 1_000;
const SECONDS = 5;
const AT_ONCE = 4;

export async function benchChecks(): Promise<void> {
  print(`\n(d) Checks over HTTP, ${count(ITEMS)} items a call, ${AT_ONCE} calls at once\n`);
  await using abide = await startAbide({ args: ['--no-workers'] });
  const poster = createPoster(abide, AT_ONCE);
  const known: string[] = [];
  await Promise.all(
    Array.from({ length: 2_000 }, async () => {
      const body = optOutBody();
      known.push((JSON.parse(body) as { subject: { email: string } }).subject.email);
      await poster.post('/v1/opt-outs', body);
    }),
  );
  const email = (n: number): object => ({
    ref: String(n),
    subject: { email: n % 10 === 0 ? known[n % known.length]! : `stranger${n}@example.com` },
    channel: 'email',
  });
  const phone = (n: number): object => ({
    ref: String(n),
    subject: { phone: `+4420718${String(n % 100_000).padStart(5, '0')}` },
    channel: 'sms',
  });
  const perSecond = async (item: (n: number) => object): Promise<number> => {
    const bodies = Array.from({ length: 20 }, (_, call) =>
      JSON.stringify({ items: Array.from({ length: ITEMS }, (_item, n) => item(call * ITEMS + n)) }),
    );
    let calls = 0;
    const began = performance.now();
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        while (performance.now() - began < SECONDS * 1000) {
          const { status } = await poster.post('/v1/checks', bodies[calls % bodies.length]!);
          if (status !== 200) throw new Error(`checks answered ${status}`);
          calls += 1;
        }
      }),
    );
    return (calls * ITEMS) / ((performance.now() - began) / 1000);
  };
  await perSecond(email);
  const figures = { email: await perSecond(email), phone: await perSecond(phone) };
  await poster.close();
  printTable(
    ['KIND', 'ITEMS/s'],
    Object.entries(figures).map(([kind, value]) => [kind, count(value)]),
  );
  judge('email, items/s', figures.email, { atLeast: 50_000 });
}
