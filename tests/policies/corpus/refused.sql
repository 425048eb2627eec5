-- because: set operations are not accepted
SELECT COUNT(*) FROM insurer.plans UNION ALL SELECT COUNT(*) FROM clinic.care;
-- because: window functions are not accepted
SELECT ROW_NUMBER() OVER (PARTITION BY person_id ORDER BY year) FROM insurer.plans;
-- because: window functions are not accepted
SELECT SUM(n) AS s FROM (SELECT person_id, SUM(COUNT(*)) OVER () AS n FROM insurer.plans GROUP BY person_id) q;
-- because: set operations are not accepted
SELECT COUNT(*) FROM (SELECT person_id FROM insurer.plans UNION SELECT person_id FROM clinic.care) q;
-- because: subqueries inside expressions are not accepted
SELECT COUNT(*) FROM insurer.plans WHERE medical_spend > (SELECT AVG(medical_spend) FROM insurer.plans);
-- because: subqueries inside expressions are not accepted
SELECT COUNT(*) FROM insurer.plans p WHERE EXISTS (SELECT 1 FROM clinic.care c WHERE c.person_id = p.person_id);
-- because: IN takes constants
SELECT COUNT(*) FROM insurer.plans WHERE person_id IN (SELECT person_id FROM clinic.care);
-- because: cross joins are not accepted
SELECT COUNT(*) FROM insurer.plans, clinic.care;
-- because: CROSS JOIN is not accepted
SELECT COUNT(*) FROM insurer.plans CROSS JOIN clinic.care;
-- because: LEFT JOIN is not accepted
SELECT COUNT(*) FROM insurer.plans LEFT JOIN clinic.care USING (person_id, year);
-- because: joined on their privacy unit
SELECT COUNT(*) FROM insurer.plans JOIN clinic.care USING (year);
-- because: is not accepted in ON
SELECT COUNT(*) FROM insurer.plans p JOIN clinic.care c ON p.person_id = c.person_id AND p.year < c.year;
-- because: whole unique key
SELECT COUNT(*) FROM insurer.plans p JOIN ref.regions r ON p.region = r.area;
-- because: SELECT * shows rows
SELECT * FROM insurer.plans;
-- because: raw values never leave
SELECT person_id, medical_spend FROM insurer.plans;
-- because: SELECT DISTINCT shows raw values
SELECT DISTINCT region FROM insurer.plans;
-- because: must also be selected
SELECT COUNT(*) FROM insurer.plans GROUP BY year;
-- because: noise is added to each aggregate
SELECT SUM(medical_spend) / COUNT(*) AS mean FROM insurer.plans;
-- because: HAVING reads noised outputs only
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year HAVING SUM(medical_spend) > 100;
-- because: write the condition in WHERE
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year HAVING year > 2;
-- because: without ORDER BY
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year LIMIT 2;
-- because: OFFSET hides cells
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year ORDER BY n LIMIT 2 OFFSET 1;
-- because: QUALIFY filters by window functions
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY year QUALIFY ROW_NUMBER() OVER (ORDER BY year) = 1;
-- because: needs declared bounds
SELECT SUM(person_id) AS s FROM insurer.plans;
-- because: counted and not added up
SELECT SUM(region) AS s FROM insurer.plans;
-- because: no bound per person
SELECT SUM(DISTINCT medical_spend) AS s FROM insurer.plans;
-- because: aggregates are COUNT, SUM
SELECT STRING_AGG(region, ',') AS s FROM insurer.plans;
-- because: allow-list
SELECT COUNT(*) FROM insurer.plans WHERE random() < 0.5;
-- because: allow-list
SELECT COUNT(*) FROM insurer.plans WHERE sleep_ms(CASE WHEN person_id = 7 THEN 1000 ELSE 0 END) = 1;
-- because: allow-list
SELECT COUNT(*) FROM insurer.plans WHERE regexp_matches(region, 'n');
-- because: cannot be read from
SELECT COUNT(*) FROM read_csv('/etc/passwd');
-- because: parameters are not accepted
SELECT COUNT(*) FROM insurer.plans WHERE year = ?;
-- because: WITH RECURSIVE is not accepted
WITH RECURSIVE r AS (SELECT person_id FROM insurer.plans) SELECT COUNT(*) FROM r;
-- because: which nothing reads
WITH unused AS (SELECT person_id FROM insurer.plans) SELECT COUNT(*) FROM clinic.care;
-- because: needs its provider
WITH a AS (SELECT person_id FROM a) SELECT COUNT(*) FROM a;
-- because: must group by the privacy unit
SELECT AVG(n) AS a FROM (SELECT region, COUNT(*) AS n FROM insurer.plans GROUP BY region) q;
-- because: LIMIT is not accepted in a subquery
SELECT COUNT(*) FROM (SELECT person_id FROM insurer.plans LIMIT 5) q;
-- because: a decimal is no group key
SELECT medical_spend, COUNT(*) FROM insurer.plans GROUP BY medical_spend;
-- because: ROLLUP
SELECT year, COUNT(*) FROM insurer.plans GROUP BY ROLLUP (year);
-- because: is not a SELECT
DROP TABLE insurer.plans;
-- because: is not a SELECT
COPY insurer.plans TO '/tmp/out.csv';
-- because: do not identify the same privacy units
SELECT COUNT(*) FROM insurer.plans JOIN clinic.trial USING (person_id, year);
-- because: public tables only
SELECT COUNT(*) FROM ref.regions;
-- because: IS NULL or IS NOT NULL
SELECT COUNT(*) FROM insurer.plans WHERE year = NULL;
-- because: types to cast to
SELECT SUM(CAST(medical_spend AS DOUBLE)) AS s FROM insurer.plans;
-- because: takes one expression
SELECT COUNT(DISTINCT year, female) AS n FROM insurer.plans;
-- because: fraction between 0 and 1
SELECT QUANTILE(medical_spend, 1.5) AS q FROM insurer.plans;
-- because: compares
SELECT COUNT(*) FROM insurer.plans WHERE NULLIF(year, NULL) = 1;
-- because: MEDIAN(born)
SELECT AVG(born) AS a FROM insurer.plans;
-- because: COUNT_IF(female = 1)
SELECT SUM(female = 1) AS s FROM insurer.plans;
-- because: between bounds
SELECT MEDIAN(region) AS m FROM insurer.plans;
-- because: is no day
SELECT MAX(born) AS b FROM insurer.plans HAVING b > 'yesterday';
-- because: with a number
SELECT COUNT(*) AS n FROM insurer.plans HAVING n > DATE '1950-01-01';
-- because: write QUANTILE(x, p), one for each p
SELECT APPROX_QUANTILES(medical_spend, 4) AS q FROM insurer.plans;
-- because: write QUANTILE(x, p), one for each p
SELECT PERCENTILE_DISC(0.5) WITHIN GROUP (ORDER BY medical_spend) AS q FROM insurer.plans;
-- because: write COUNT(DISTINCT x)
SELECT APPROX_COUNT_DISTINCT(person_id) AS n FROM insurer.plans;
-- because: write AVG(x)
SELECT MEAN(medical_spend) AS m FROM insurer.plans;
-- because: somebody's own value
SELECT ANY_VALUE(region) AS r FROM insurer.plans;
-- because: somebody's own value
SELECT ARG_MAX(region, medical_spend) AS r FROM insurer.plans;
-- because: ORDER BY n DESC LIMIT 1
SELECT MODE(coinsurance) AS m FROM insurer.plans;
-- because: WIDTH_BUCKET(x, low, high, bins)
SELECT HISTOGRAM(medical_spend) AS h FROM insurer.plans;
-- because: write COUNT_IF(condition)
SELECT BOOL_OR(female = 1) AS b FROM insurer.plans;
-- because: CORR(x, y): it is its square
SELECT REGR_R2(medical_spend, year) AS r FROM insurer.plans;
-- because: is NULL where b is 0
SELECT AVG(SAFE_DIVIDE(medical_spend, year)) AS a FROM insurer.plans;
-- because: write COALESCE(x, 0)
SELECT SUM(ZEROIFNULL(admissions)) AS s FROM clinic.care;
-- because: write x IS NULL
SELECT COUNT(*) AS n FROM clinic.care WHERE ISNULL(admissions);
-- because: write LEAST(GREATEST(x, low), high)
SELECT SUM(CLAMP(medical_spend, 0, 5)) AS s FROM insurer.plans;
-- because: numbers are exact
SELECT AVG(LN(medical_spend + 1)) AS a FROM insurer.plans;
-- because: write x LIKE 'pattern'
SELECT COUNT(*) AS n FROM insurer.plans WHERE STARTS_WITH(region, 'n');
-- because: write x LIKE 'pattern'
SELECT COUNT(*) AS n FROM insurer.plans WHERE region SIMILAR TO 'n.*';
-- because: of texts there are LOWER
SELECT COUNT(*) AS n FROM insurer.plans WHERE RIGHT(region, 1) = 'h';
-- because: takes blanks away at both ends
SELECT COUNT(*) AS n FROM insurer.plans WHERE LTRIM(region) = 'north';
-- because: SUBSTRING(x, 1, 1)
SELECT COUNT(*) AS n FROM insurer.plans WHERE region[1] = 'n';
-- because: DATE_TRUNC('month', d)
SELECT STRFTIME(born, '%Y') AS y, COUNT(*) AS n FROM insurer.plans GROUP BY y;
-- because: write DATE_TRUNC('month', d)
SELECT DATE_TRUNC(born, MONTH) AS m, COUNT(*) AS n FROM insurer.plans GROUP BY m;
-- because: write a day like DATE '2026-01-31'
SELECT COUNT(*) AS n FROM insurer.plans WHERE born > CURRENT_DATE;
-- because: list the keys
SELECT year, COUNT(*) AS n FROM insurer.plans GROUP BY ALL;
-- because: leave GROUP BY out for one cell
SELECT COUNT(*) AS n FROM insurer.plans GROUP BY ();
-- because: not a comma and WHERE
SELECT COUNT(*) AS n FROM insurer.plans p, clinic.care c WHERE p.person_id = c.person_id;
-- because: write other conditions in WHERE
SELECT COUNT(*) AS n FROM insurer.plans p JOIN clinic.care c ON p.person_id = c.person_id AND c.year = 3;
-- because: joined on their privacy unit (person_id)
SELECT COUNT(*) AS n FROM insurer.plans p JOIN clinic.care c ON p.year = c.year;
-- because: LEAST(GREATEST(x, 0), 100) gives bounds
SELECT AVG(TRY_CAST(region AS INTEGER)) AS a FROM insurer.plans;
-- because: window functions are not accepted
SELECT AVG(d) AS a FROM (SELECT person_id, year - LAG(year) OVER (PARTITION BY person_id ORDER BY year) AS d FROM insurer.plans) q;
-- because: not valid SQL; names are quoted like "this"
SELECT `year`, COUNT(*) AS n FROM insurer.plans GROUP BY `year`;
-- because: not valid SQL at `5`
SELECT TOP 5 year, COUNT(*) AS n FROM insurer.plans GROUP BY year
