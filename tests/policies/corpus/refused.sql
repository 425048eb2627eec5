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
-- because: cannot be added up
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
SELECT COUNT(*) FROM insurer.plans WHERE NULLIF(year, NULL) = 1
