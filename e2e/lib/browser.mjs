// A browser for one test, closed whatever happens.
import { chromium } from 'playwright-core';

const BROWSER = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS =
  '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking ' +
  '--disable-component-update --disable-sync';

/** Runs `look` with a new page; what goes wrong in the page fails it too. */
export async function withPage(look) {
  const browser = await chromium.launch({ executablePath: BROWSER, headless: true, args: FLAGS.split(' ') });
  try {
    const page = await browser.newPage();
    const wrong = [];
    page.on('pageerror', (error) => wrong.push(error));
    await look(page);
    if (wrong.length > 0) throw wrong[0];
  } finally {
    await browser.close();
  }
}
