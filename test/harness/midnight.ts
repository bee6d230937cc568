import { setTimeout as delay } from 'node:timers/promises';

const DAY_MS = 86_400_000;
/** More than it takes from here to the last look at what the day has counted. */
const NEAR_MS = 60_000;

const leftMs = (): number => DAY_MS - (Date.now() % DAY_MS);

/** Budgets and uses are counted by the day of UTC: what is spent on one day and looked at on the next seems not to be spent. */
export async function awayFromMidnight(): Promise<void> {
  while (leftMs() < NEAR_MS) await delay(leftMs());
}
