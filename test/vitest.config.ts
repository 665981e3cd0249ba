import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    root: '.',
    globalSetup: 'test/support/setup.ts',
    include: ['test/**/*.test.ts'],
    exclude: process.env['HOWDAH_TEST_NO_JOURNEYS'] ? ['test/journeys/**'] : [],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // More than the machines that run this have cores: many tests wait for servers and timers.
    maxWorkers: 3,
  },
})
