// Jest's global teardown.
export default async function stopPostgres(): Promise<void> {
  await globalThis.stopPostgresOfTheRun?.();
}
