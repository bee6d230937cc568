/** Run by test/run.ts, which knows what this machine has; `--experimental-vm-modules` is needed. */
export default {
  testEnvironment: '<rootDir>/test/harness/one-realm.cjs',
  roots: ['<rootDir>/test'],
  testMatch: ['**/*.test.ts'],
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '\\.ts$': '<rootDir>/test/strip-types.cjs' },
  globalSetup: '<rootDir>/test/harness/start-postgres.ts',
  globalTeardown: '<rootDir>/test/harness/stop-postgres.ts',
  testTimeout: 30_000,
  watchman: false,
};
